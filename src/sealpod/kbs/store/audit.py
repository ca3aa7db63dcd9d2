# SPDX-License-Identifier: Apache-2.0
"""Decisions and what they change, in one transaction. :mod:`.auditlog` reads the log of decisions back.

Every change to launches and connections goes through :class:`Ledger`, whose transaction first locks the log's
head row. So there is one chain however many replicas append to it, of two that spend one launch the second
finds it gone, and a replica that is killed leaves either the whole decision or nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import Connection, Engine, bindparam, delete, insert, select, update

from sealpod.errors import NotFoundError, RefusedError, SealpodError, UnavailableError
from sealpod.kbs.core import records
from sealpod.kbs.core.audit import GENESIS, Entry, chain
from sealpod.kbs.core.launching import launch_unknown
from sealpod.kbs.core.limits import Limits
from sealpod.kbs.core.records import Change
from sealpod.kbs.store import schema
from sealpod.kbs.store.auditlog import HEAD_ID, head_of
from sealpod.kbs.store.census import TOO_MANY_CONNECTIONS, TOO_MANY_LAUNCHES, Census
from sealpod.kbs.store.engine import writing
from sealpod.kbs.store.pinned import Pinned
from sealpod.kbs.store.replies import count_reply

EXPIRED_AT_ONCE: Final = 1000
"""Connections dropped in one transaction."""

Row = dict[str, object]

_launches, _connections, _audit, _head = schema.launches, schema.connections, schema.audit, schema.audit_head
# Built once: building a statement costs more than running it.
_READ_HEAD: Final = select(_head.c.seq, _head.c.hash).where(_head.c.id == HEAD_ID).with_for_update()
_MOVE_HEAD: Final = (
    update(_head).where(_head.c.id == HEAD_ID).values(seq=bindparam("to_seq"), hash=bindparam("to_hash"))
)
_ADD_LAUNCHES: Final = insert(_launches)
_ADD_CONNECTIONS: Final = insert(schema.conn_bundle)
_ADD_PLATFORMS: Final = insert(_connections)
_ADD_RECORDS: Final = insert(_audit)
_SPEND: Final = delete(_launches).where(
    _launches.c.launch_id == bindparam("spent"), _launches.c.expires_at > bindparam("now")
)
_EXPIRE: Final = delete(_launches).where(_launches.c.expires_at <= bindparam("now"))


@dataclass(slots=True)
class Ticket:
    """A change that waits, and then its place in the log or why it has none."""

    change: Change
    record: str
    now: float
    limits: Limits
    entry: Entry | None = None
    error: BaseException | None = None

    @property
    def settled(self) -> bool:
        return self.entry is not None or self.error is not None


class Ledger:
    """Writes batches of changes, one batch at a time.

    ``connection_row`` makes the row of ``conn_bundle``, its key as it is kept at rest.
    """

    def __init__(self, engine: Engine, connection_row: Callable[[records.Connection], Row]) -> None:
        self._engine = engine
        self._connection_row = connection_row
        self._committing = False
        self._launches = Census(_launches)
        self._connections = Census(_connections)
        self.pinned: Final = Pinned()

    def write(self, batch: Sequence[Ticket]) -> None:
        """Settle all of a batch: give each its entry or its refusal.

        :raise SealpodError: none of them is settled.
        """
        try:
            self._transact(batch)
        except UnavailableError:
            self._recount()
            # A pooled connection that the database closed shows only now. Once the commit was asked for
            # nobody knows whether it happened, and asking twice could find the launch spent by ourselves.
            if self._committing or self._engine.dialect.name == "sqlite":
                raise
            self._transact(batch)
        except BaseException:
            self._recount()
            raise

    @contextmanager
    def changing(self, record: str, placed: Callable[[Entry], None]) -> Iterator[Connection]:
        """A transaction for the block's change, which ends with its record; ``placed`` gets the entry."""
        with self._locked() as (connection, head):
            yield connection
            entries = _append(connection, head, [record])
        self.pinned.moved(entries[0])
        placed(entries[0])

    @contextmanager
    def _locked(self) -> Iterator[tuple[Connection, Entry]]:
        with writing(self._engine) as connection:
            if connection.dialect.name == "sqlite":
                # SQLite has no row locks; this takes the file's, and waits for it, before anything is read.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            head = _lock_head(connection)
            self.pinned.compare(connection, head)
            yield connection, head

    def _recount(self) -> None:
        for census in (self._launches, self._connections):
            census.forget()

    def _transact(self, batch: Sequence[Ticket]) -> None:
        self._committing = False
        refused: list[tuple[Ticket, SealpodError]] = []
        accepted: list[Ticket] = []
        with self._locked() as (connection, head):
            self._make_room(connection, batch)
            for ticket in batch:
                try:
                    self._apply(connection, ticket)
                except (NotFoundError, RefusedError) as error:
                    refused.append((ticket, error))
                else:
                    accepted.append(ticket)
            self._insert(connection, accepted)
            entries = _append(connection, head, [one.record for one in accepted])
            self._committing = True
        if entries:
            self.pinned.moved(entries[-1])
        # Nothing is told before the commit: until then it may not have happened.
        for ticket, entry in zip(accepted, entries, strict=True):
            ticket.entry = entry
        for ticket, refusal in refused:
            ticket.error = refusal

    def _make_room(self, connection: Connection, batch: Sequence[Ticket]) -> None:
        first = batch[0]
        if any(one.change.opens for one in batch) and self._launches.stale(first.limits.max_launches):
            connection.execute(_EXPIRE, {"now": first.now})
            self._launches.recount(connection)
        if any(one.change.connections for one in batch) and self._connections.stale(
            first.limits.max_connections
        ):
            _drop_connections(connection, before=first.now - first.limits.connection_ttl)
            self._connections.recount(connection)

    def _apply(self, connection: Connection, ticket: Ticket) -> None:
        """What may be refused; the rest is inserted for all of a batch together."""
        change, limits = ticket.change, ticket.limits
        if change.uses is not None:
            count_reply(connection, change.uses, limits.connection_messages, ticket.now)
        if change.opens is not None:
            chip = change.opens.platform.chip
            self._launches.add(connection, 1, limits.max_launches, TOO_MANY_LAUNCHES, chip)
        if change.connections:
            # All of one call are of one launch.
            platform, number = change.connections[0].platform, len(change.connections)
            chip_of = None if platform is None else platform.chip
            self._connections.add(connection, number, limits.max_connections, TOO_MANY_CONNECTIONS, chip_of)
        if change.spends is not None:
            spent = connection.execute(_SPEND, {"spent": str(change.spends), "now": ticket.now})
            if spent.rowcount != 1:
                raise launch_unknown(change.spends)
            self._launches.remove(1)

    def _insert(self, connection: Connection, accepted: Sequence[Ticket]) -> None:
        opened = [_launch_row(one.change.opens) for one in accepted if one.change.opens is not None]
        if opened:
            connection.execute(_ADD_LAUNCHES, opened)
        begun = [_dated(made, one.now) for one in accepted for made in one.change.connections]
        if begun:
            connection.execute(_ADD_CONNECTIONS, [self._connection_row(made) for made in begun])
            connection.execute(_ADD_PLATFORMS, [_platform_row(made) for made in begun])


def _lock_head(connection: Connection) -> Entry:
    row = connection.execute(_READ_HEAD).one_or_none()
    if row is None:
        # The first decision of a database. Of two replicas here at once one fails, and its caller asks again.
        connection.execute(insert(_head).values(id=HEAD_ID, seq=0, hash=GENESIS))
        return Entry(0, GENESIS, "")
    return head_of(row.seq, row.hash)


def _append(connection: Connection, head: Entry, texts: Sequence[str]) -> Sequence[Entry]:
    entries = list(chain(texts, number=head.number, previous=head.hash))
    if entries:
        rows = [{"seq": one.number, "hash": one.hash, "record": one.record} for one in entries]
        connection.execute(_ADD_RECORDS, rows)
        connection.execute(_MOVE_HEAD, {"to_seq": entries[-1].number, "to_hash": entries[-1].hash})
    return entries


def _drop_connections(connection: Connection, *, before: float) -> None:
    if before == float("-inf"):
        return  # They are kept for ever.
    expired = select(_connections.c.client_id).where(_connections.c.created_at <= before)
    ids = list(connection.execute(expired.limit(EXPIRED_AT_ONCE)).scalars())
    if ids:
        connection.execute(delete(schema.conn_bundle).where(schema.conn_bundle.c.id.in_(ids)))
        connection.execute(delete(_connections).where(_connections.c.client_id.in_(ids)))


def _launch_row(launch: records.Launch) -> Row:
    return {
        "launch_id": str(launch.id),
        "policy": launch.policy,
        "sealed_keys": launch.sealed_keys,
        "root": launch.platform.root,
        "ark": launch.platform.ark,
        "chain": launch.platform.chain,
        "chip": launch.platform.chip,
        "created_at": launch.created_at,
        "expires_at": launch.expires_at,
    }


def _dated(made: records.Connection, now: float) -> records.Connection:
    return made if made.created_at is not None else replace(made, created_at=now)


def _platform_row(made: records.Connection) -> Row:
    platform = made.platform
    return {
        "client_id": str(made.client_id),
        "root": None if platform is None else platform.root,
        "ark": None if platform is None else platform.ark,
        "chain": None if platform is None else platform.chain,
        "chip": None if platform is None else platform.chip,
        "created_at": made.created_at,
        "messages": 0,
    }
