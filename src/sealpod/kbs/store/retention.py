# SPDX-License-Identifier: Apache-2.0
"""Forgetting: launches whose time is over, and connections older than they may get.

Rows go some hundred at a time, each batch a transaction of its own, so that no reader waits for long and a
purge that was interrupted simply goes on next time. Any number of replicas may purge at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Engine, Select, Table, delete, or_, select

from sealpod.kbs.store import moments, schema
from sealpod.kbs.store.database import Database
from sealpod.kbs.store.engine import reading, writing

BATCH: Final = 500
"""Rows of one transaction."""

_LAUNCHES: Final = schema.launches
_CONNECTIONS: Final = schema.conn_bundle
_OURS: Final = schema.connections


@dataclass(frozen=True, slots=True)
class Purged:
    """How many rows went."""

    launches: int
    connections: int


def purge(db: Database, *, now: float, connection_ttl: float | None) -> Purged:
    """Delete launches that expired before ``now`` and connections made more than ``connection_ttl`` ago.

    ``now`` is in seconds since the epoch, the broker's clock, which also dated its own rows; what simple-kbs
    made is dated by the database. Without ``connection_ttl`` connections stay.
    """
    expired = select(_LAUNCHES.c.launch_id).where(_LAUNCHES.c.expires_at <= now)
    launches = _delete(db.engine, expired, [(_LAUNCHES, "launch_id")])
    if connection_ttl is None:
        return Purged(launches, 0)
    both = [(_OURS, "client_id"), (_CONNECTIONS, "id")]
    own = select(_OURS.c.client_id).where(_OURS.c.created_at <= now - connection_ttl)
    connections = _delete(db.engine, own, both)
    foreign = (
        select(_CONNECTIONS.c.id)
        .select_from(_CONNECTIONS.outerjoin(_OURS, _OURS.c.client_id == _CONNECTIONS.c.id))
        .where(
            _OURS.c.client_id.is_(None),
            _CONNECTIONS.c.create_date.is_not(None),
            or_(
                moments.Moment(_CONNECTIONS.c.create_date) <= moments.Ago(connection_ttl),
                # Not a date: nothing says that it is young.
                moments.Moment(_CONNECTIONS.c.create_date).is_(None),
            ),
        )
    )
    return Purged(launches, connections + _delete(db.engine, foreign, both))


def _delete(engine: Engine, which: Select[Any], tables: list[tuple[Table, str]]) -> int:
    """Delete rows by id from each table; gives how many ids were found."""
    total = 0
    while True:
        with reading(engine) as connection:
            ids = connection.execute(which.limit(BATCH)).scalars().all()
        if ids:
            with writing(engine) as connection:
                counts = [
                    connection.execute(delete(table).where(table.c[column].in_(ids))).rowcount
                    for table, column in tables
                ]
            # Of replicas that purge at once only one finds a row.
            total += counts[0] if len(counts) == 1 else max(counts)
        if len(ids) < BATCH:
            return total
