# SPDX-License-Identifier: Apache-2.0
"""GetOnlineSecret: release secrets to a running guest that got a connection.

1. the client id is well formed, known, its time is not over, and the root of its platform is trusted still;
2. the requests are well formed; 3. every policy agrees with what the guest's launch was; 4. everything
exists; 5. encrypt under the connection's key, bound to this request; 6. the connection has replies left and
was not revoked meanwhile, and the decision is written down. A further connection begins when this one did, so
that it ends with it: in time, and by being revoked.

The request is not authenticated: who has the key can read the reply, and only that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from sealpod.errors import NotFoundError, RefusedError
from sealpod.kbs.core import deciding, stage
from sealpod.kbs.core.audit import Decision
from sealpod.kbs.core.context import MAX_LOGGED, Context, parse
from sealpod.kbs.core.deciding import Prepared
from sealpod.kbs.core.encoding import encode_base64
from sealpod.kbs.core.gathering import Entries, connections_of, entries_of, labels_of
from sealpod.kbs.core.material import NO_ROWS
from sealpod.kbs.core.messages import OnlineReply
from sealpod.kbs.core.online import IV_SIZE, encrypt_reply
from sealpod.kbs.core.records import Change, Connection
from sealpod.kbs.core.request import RawRequest
from sealpod.secret import SecretBytes
from sealpod.wire.binding import BINDING_NAME, BINDING_VERSION, request_digest
from sealpod.wire.guid import parse_guid

_REMEDY: Final = "launch the guest again: its connection is not known to this key broker any more"


def prepare(
    context: Context, decision: Decision, client_id: str, raw: Sequence[RawRequest]
) -> Prepared[OnlineReply]:
    """What the guest gets. :raise SealpodError: as each step says; ``connection.*``."""
    decision.client = client_id[:MAX_LOGGED]
    connection = _connection(context, client_id)  # (1)
    deciding.describe(decision, connection.evidence)
    deciding.name_platform(decision, connection.platform)
    requests = parse(decision, raw, guids_are_uuids=False)  # (2)
    asker = context.asker(connection.evidence, connection.platform)
    materials = context.approve(decision, requests, asker)  # (3)
    with stage.stage(stage.FULFILL):  # (4)
        entries = entries_of(requests, materials, context.limits.online_reply)
    reply = _encrypt(connection, client_id, raw, entries, context.rng(IV_SIZE))  # (5)
    decision.released = labels_of(materials)
    further = tuple(replace(one, created_at=connection.created_at) for one in connections_of(materials))
    change = Change(decision, uses=connection.client_id, connections=further)  # (6)
    return Prepared(change, reply)


def connection_unknown() -> NotFoundError:
    """The error for a client id that nobody was given, or that was taken back."""
    return NotFoundError(NO_ROWS, code="connection.unknown", remedy=_REMEDY)


def _connection(context: Context, client_id: str) -> Connection:
    with stage.stage(stage.CLIENT_ID):
        client = parse_guid(client_id)
    with stage.stage(stage.CONNECTION):
        connection = context.store.find_connection(client)
        if connection is None:
            raise connection_unknown()
        began = connection.created_at
        context.chains.check_root(connection.platform)
        if began is not None and began + context.limits.connection_ttl <= context.clock():
            raise RefusedError("its time is over", code="connection.expired", remedy=_REMEDY)
    return connection


def _encrypt(
    connection: Connection, client_id: str, raw: Sequence[RawRequest], entries: Entries, iv: bytes
) -> OnlineReply:
    if connection.client_id.version == BINDING_VERSION:
        digest = request_digest(client_id, [one.texts() for one in raw])
        entries = [*entries, (BINDING_NAME, SecretBytes(digest))]
    with stage.stage(stage.ENCRYPT):
        payload = encrypt_reply(connection.key, entries, iv=iv)
    return OnlineReply(payload=encode_base64(payload), iv=encode_base64(iv))
