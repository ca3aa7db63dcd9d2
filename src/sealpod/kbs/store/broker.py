# SPDX-License-Identifier: Apache-2.0
"""The broker's side of the database: what :class:`~sealpod.kbs.core.ports.BrokerStore` asks for.

A secret and its policy are read by one statement, so that no change between two reads can part them. What
changes goes through :mod:`sealpod.kbs.store.audit`, together with the decision it follows from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection as SqlConnection
from sqlalchemy import Row, Select, Table, bindparam, select

from sealpod.errors import DecodeError, RefusedError
from sealpod.kbs.core.audit import Decision, Entry
from sealpod.kbs.core.encoding import decode_base64, encode_base64
from sealpod.kbs.core.evidence import Evidence
from sealpod.kbs.core.limits import Limits
from sealpod.kbs.core.online import CONNECTION_KEY_SIZE
from sealpod.kbs.core.records import (
    Change,
    Connection,
    Launch,
    Platform,
    StoredKeyset,
    StoredReportKey,
    StoredResource,
    StoredSecret,
)
from sealpod.kbs.core.sealing import is_sealed
from sealpod.kbs.store import columns, moments, schema, standing
from sealpod.kbs.store.admin import storable
from sealpod.kbs.store.database import Database
from sealpod.kbs.store.engine import fetch
from sealpod.kbs.store.settling import Settler
from sealpod.secret import SecretBytes


def _with_policy(table: Table, key: str, value: str) -> Select[tuple[object, ...]]:
    policy = schema.policy
    # Built once: building a statement costs more than running it.
    return select(
        table.c[key].label("name"),
        table.c[value].label("value"),
        table.c.polid,
        policy.c.id.label("policy_id"),
        moments.in_force(policy).label("in_force"),
        policy.c.allowed_digests,
        policy.c.allowed_policies,
        policy.c.min_fw_api_major,
        policy.c.min_fw_api_minor,
        policy.c.allowed_build_ids,
    ).select_from(table.outerjoin(policy, table.c.polid == policy.c.id))


def _by_name(table: Table, key: str, value: str) -> Select[tuple[object, ...]]:
    return _with_policy(table, key, value).where(table.c[key] == bindparam("name"))


_SECRET: Final = _by_name(schema.secrets, "secret_id", "secret")
_KEYSET: Final = _by_name(schema.keysets, "keysetid", "kskeys")
_REPORT_KEY: Final = _by_name(schema.report_keypair, "key_id", "keypair")
_RESOURCE: Final = (
    _with_policy(schema.resources, "resource_id", "resource_path")
    .add_columns(schema.resources.c.resource_type)
    .where(schema.resources.c.resource_type == bindparam("name"))
    .order_by(schema.resources.c.id)
)
# Of a connection's second row; none when simple-kbs made it.
_OURS: Final = ("root", "ark", "chain", "chip", "created_at")
_CLAIMED: Final = {
    "policy": int,
    "fw_api_major": int,
    "fw_api_minor": int,
    "fw_build_id": int,
    "launch_description": str,
    "fw_digest": str,
    "symkey": str,
}
# Dates are not selected as such: SQLite keeps what a hand-written statement put there.
_CONNECTION: Final = (
    select(
        *(schema.conn_bundle.c[name] for name in _CLAIMED),
        *(schema.connections.c[name] for name in _OURS),
    )
    .select_from(standing.SOURCE)
    .where(
        schema.conn_bundle.c.id == bindparam("id"), moments.has_not_ended(schema.conn_bundle.c.delete_date)
    )
)
_LAUNCH: Final = select(schema.launches).where(
    schema.launches.c.launch_id == bindparam("id"), schema.launches.c.expires_at > bindparam("now")
)


class SqlBrokerStore:
    """A :class:`~sealpod.kbs.core.ports.BrokerStore`; safe to use from several threads and processes."""

    def __init__(self, db: Database, *, plain_connections: bool = True) -> None:
        """``plain_connections``: those whose key stands in plain, as simple-kbs writes it, are answered."""
        self._engine = db.engine
        self._sealer = db.sealer
        self._plain_connections = plain_connections
        self._settler = Settler(db.engine, self._connection_row)

    @property
    def audit_breaks(self) -> int:
        """How often the log of decisions did not hold what this store had seen in it."""
        return self._settler.breaks

    def find_secret(self, secret_id: str) -> StoredSecret | None:
        row = self._find(_SECRET, secret_id)
        if row is None or row.value is None:
            return None
        return StoredSecret(row.name, self._open("secrets", row.name, row.value), columns.rule_of(row))

    def find_keyset(self, keyset_id: str) -> StoredKeyset | None:
        row = self._find(_KEYSET, keyset_id)
        if row is None:
            return None
        return StoredKeyset(row.name, columns.names_of(row.value), columns.rule_of(row))

    def find_report_key(self, key_id: str) -> StoredReportKey | None:
        row = self._find(_REPORT_KEY, key_id)
        if row is None or row.value is None:
            return None
        value = self._open("report_keypair", row.name, row.value)
        return StoredReportKey(row.name, value, columns.rule_of(row))

    def find_resource(self, kind: str) -> StoredResource | None:
        for row in self._all(_RESOURCE, kind):
            if row.resource_type == kind and row.value is not None:
                return StoredResource(str(row.name), kind, str(row.value), columns.rule_of(row))
        return None

    def settle(self, change: Change, *, now: float, limits: Limits) -> Entry:
        return self._settler.settle(change, now=now, limits=limits)

    def changing(
        self, decision: Decision, placed: Callable[[Entry], None]
    ) -> AbstractContextManager[SqlConnection]:
        """A transaction for a change that ``decision`` grants: both are kept or neither.

        ``placed`` gets the decision's place in the log once they are on disk.
        """
        return self._settler.changing(decision, placed)

    def find_launch(self, launch_id: UUID, *, now: float) -> Launch | None:
        row = next(iter(fetch(self._engine, _LAUNCH, {"id": str(launch_id), "now": now})), None)
        # SQLite keeps a text as a time; no launch was ever opened with one.
        if row is None or not isinstance(row.expires_at, float) or not math.isfinite(row.expires_at):
            return None
        platform = Platform(row.root, row.ark, row.chain, row.chip)
        return Launch(launch_id, row.policy, row.sealed_keys, platform, row.created_at, row.expires_at)

    def find_connection(self, client_id: UUID) -> Connection | None:
        row = next(iter(fetch(self._engine, _CONNECTION, {"id": str(client_id)})), None)
        if row is None:
            return None
        # NULL, or text where SQLite should have a number.
        if not all(isinstance(getattr(row, name), kind) for name, kind in _CLAIMED.items()):
            raise _malformed()
        if not isinstance(row.created_at, float | None):
            raise _malformed()
        evidence = Evidence(
            columns.unsigned(row.policy),
            row.fw_api_major,
            row.fw_api_minor,
            row.fw_build_id,
            row.fw_digest,
            row.launch_description,
        )
        platform = None if row.root is None else Platform(row.root, row.ark, row.chain, row.chip)
        return Connection(client_id, self._connection_key(client_id, row), evidence, platform, row.created_at)

    def _all(self, statement: Select[Any], name: str) -> Sequence[Row[Any]]:
        if not storable(self._engine.dialect.name, name):
            return ()
        return fetch(self._engine, statement, {"name": name})

    def _find(self, statement: Select[Any], name: str) -> Row[Any] | None:
        for row in self._all(statement, name):
            # MySQL compares without case and trailing spaces; an id is exactly itself.
            if row.name == name:
                return row
        return None

    def _open(self, table: str, key: str, column: object) -> SecretBytes:
        return self._sealer.open_text(table, key, str(column))

    def _connection_key(self, client_id: UUID, row: Row[Any]) -> SecretBytes:
        if not (self._plain_connections or is_sealed(row.symkey)):
            # Anybody who writes to the database could make one, with a key and a launch of his choice.
            raise RefusedError("its key stands in plain", code="connection.plain", remedy=_PLAIN_REMEDY)
        bound = standing.of_row(row)
        return _key(self._sealer.open_text("conn_bundle", str(client_id), row.symkey, standing=bound))

    def _connection_row(self, connection: Connection) -> dict[str, object]:
        evidence, name = connection.evidence, str(connection.client_id)
        key = SecretBytes(encode_base64(connection.key.reveal()).encode("ascii"))
        return {
            "id": name,
            "policy": columns.signed(evidence.policy),
            "fw_api_major": evidence.api_major,
            "fw_api_minor": evidence.api_minor,
            "fw_build_id": evidence.build_id,
            "launch_description": evidence.description,
            "fw_digest": evidence.digest,
            "symkey": self._sealer.seal_text(
                "conn_bundle",
                name,
                key,
                width=schema.MAX_SYMKEY,
                standing=standing.of_connection(connection),
            ),
            "create_date": columns.now(),
        }


_PLAIN_REMEDY: Final = (
    "the broker's owner seals those of guests that simple-kbs launched with `sealpod kbs seal`; else launch "
    "the guest again"
)


def _key(text: SecretBytes) -> SecretBytes:
    try:
        key = SecretBytes(decode_base64(text.reveal().decode(), limit=CONNECTION_KEY_SIZE))
    except DecodeError:
        # The decoder's words tell a byte of the key.
        raise _malformed() from None
    if len(key) != CONNECTION_KEY_SIZE:
        raise _malformed()
    return key


def _malformed() -> DecodeError:
    return DecodeError("the connection's record cannot be read", code="connection.malformed")
