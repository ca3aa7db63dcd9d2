# SPDX-License-Identifier: Apache-2.0
"""Replies under a connection: counted, and none once it was revoked or forgotten.

A guest's call finds its connection, and takes its time until it is settled; an owner may revoke the
connection in between. What counts is the moment at which the decision is written down, so that no record of
a release stands behind the one of the revocation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, bindparam, insert, select, update

from sealpod.errors import RefusedError
from sealpod.kbs.core import stage
from sealpod.kbs.core.getonline import connection_unknown
from sealpod.kbs.store import moments, schema

_ours, _theirs = schema.connections, schema.conn_bundle
# Built once: building a statement costs more than running it.
_ACTIVE: Final = select(_theirs.c.id).where(
    _theirs.c.id == bindparam("client"), moments.has_not_ended(_theirs.c.delete_date)
)
_COUNT: Final = (
    update(_ours)
    .where(_ours.c.client_id == bindparam("client"), _ours.c.messages < bindparam("most"), _ACTIVE.exists())
    .values(messages=_ours.c.messages + 1)
)
_KNOWN: Final = select(_ours.c.messages).where(_ours.c.client_id == bindparam("client"))


def count_reply(connection: Connection, client: UUID, most: int, now: float) -> None:
    """One reply more, of ``most``.

    :raise NotFoundError: ``connection.unknown``. :raise RefusedError: ``connection.exhausted``.
    """
    parameters = {"client": str(client), "most": most}
    if connection.execute(_COUNT, parameters).rowcount == 1:
        return
    if connection.execute(_ACTIVE, parameters).first() is None:
        with stage.stage(stage.CONNECTION):
            raise connection_unknown()
    if connection.execute(_KNOWN, parameters).first() is not None or most < 1:
        raise RefusedError(
            "the connection has had all the replies it may have",
            code="connection.exhausted",
            remedy="launch the guest again for a connection with a new key",
        )
    # One that simple-kbs made: from now on it is counted.
    row: Mapping[str, object] = {"client_id": str(client), "created_at": now, "messages": 1}
    connection.execute(insert(_ours), row)
