# SPDX-License-Identifier: Apache-2.0
"""The broker's side of the database: what :class:`~sealpod.kbs.core.ports.BrokerStore` asks for.

A secret and its policy are read by one statement, so that no change between two reads can part them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from sqlalchemy import Engine, Select, Table, delete, func, insert, select

from sealpod.errors import DecodeError, RefusedError
from sealpod.kbs.core.encoding import decode_base64, encode_base64
from sealpod.kbs.core.evidence import Evidence
from sealpod.kbs.core.online import CONNECTION_KEY_SIZE
from sealpod.kbs.core.records import Connection, Launch, StoredKeyset, StoredSecret
from sealpod.kbs.store import columns, schema
from sealpod.kbs.store.engine import reading, writing
from sealpod.secret import SecretBytes


def _with_policy(table: Table, key: str, value: str) -> Select[tuple[object, ...]]:
    policy = schema.policy
    return select(
        table.c[key].label("name"),
        table.c[value].label("value"),
        table.c.polid,
        policy.c.id.label("policy_id"),
        policy.c.valid,
        policy.c.allowed_digests,
        policy.c.allowed_policies,
        policy.c.min_fw_api_major,
        policy.c.min_fw_api_minor,
        policy.c.allowed_build_ids,
    ).select_from(table.outerjoin(policy, table.c.polid == policy.c.id))


_SECRET: Final = _with_policy(schema.secrets, "secret_id", "secret")
_KEYSET: Final = _with_policy(schema.keysets, "keysetid", "kskeys")


class SqlBrokerStore:
    """A :class:`~sealpod.kbs.core.ports.BrokerStore`; safe to use from several threads and processes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def find_secret(self, secret_id: str) -> StoredSecret | None:
        with reading(self._engine) as connection:
            rows = connection.execute(_SECRET.where(schema.secrets.c.secret_id == secret_id)).all()
        # MySQL compares without case and trailing spaces; an id is exactly itself.
        for row in rows:
            if row.name == secret_id and row.value is not None:
                return StoredSecret(row.name, SecretBytes(str(row.value).encode()), columns.rule_of(row))
        return None

    def find_keyset(self, keyset_id: str) -> StoredKeyset | None:
        with reading(self._engine) as connection:
            rows = connection.execute(_KEYSET.where(schema.keysets.c.keysetid == keyset_id)).all()
        for row in rows:
            if row.name == keyset_id:
                return StoredKeyset(row.name, columns.names_of(row.value), columns.rule_of(row))
        return None

    def add_launch(self, launch: Launch, *, limit: int) -> None:
        table = schema.launches
        with writing(self._engine) as connection:
            connection.execute(delete(table).where(table.c.expires_at <= launch.created_at))
            count = connection.execute(select(func.count()).select_from(table)).scalar_one()
            if count >= limit:
                raise RefusedError(
                    f"{count} launches are in progress",
                    code="launch.too-many",
                    remedy="Try again when some have ended; each ends by its secret request or its time",
                )
            connection.execute(
                insert(table).values(
                    launch_id=str(launch.id),
                    policy=launch.policy,
                    sealed_keys=launch.sealed_keys,
                    root=launch.root,
                    created_at=launch.created_at,
                    expires_at=launch.expires_at,
                )
            )

    def find_launch(self, launch_id: UUID, *, now: float) -> Launch | None:
        table = schema.launches
        statement = select(table).where(table.c.launch_id == str(launch_id), table.c.expires_at > now)
        with reading(self._engine) as connection:
            row = connection.execute(statement).one_or_none()
        if row is None:
            return None
        return Launch(launch_id, row.policy, row.sealed_keys, row.root, row.created_at, row.expires_at)

    def consume_launch(self, launch_id: UUID, *, now: float) -> bool:
        table = schema.launches
        statement = delete(table).where(table.c.launch_id == str(launch_id), table.c.expires_at > now)
        with writing(self._engine) as connection:
            # The database lets one of several deletions find the row; the others count none.
            return connection.execute(statement).rowcount == 1

    def add_connections(self, connections: Sequence[Connection]) -> None:
        rows = [_connection_row(one) for one in connections]
        with writing(self._engine) as connection:
            connection.execute(insert(schema.conn_bundle), rows)

    def find_connection(self, client_id: UUID) -> Connection | None:
        table = schema.conn_bundle
        # Dates are not selected as such: SQLite keeps what a hand-written statement put there.
        statement = select(
            table.c.policy,
            table.c.fw_api_major,
            table.c.fw_api_minor,
            table.c.fw_build_id,
            table.c.launch_description,
            table.c.fw_digest,
            table.c.symkey,
        ).where(table.c.id == str(client_id), table.c.delete_date.is_(None))
        with reading(self._engine) as connection:
            row = connection.execute(statement).one_or_none()
        if row is None:
            return None
        if None in tuple(row):
            raise _malformed()
        evidence = Evidence(
            columns.unsigned(row.policy),
            row.fw_api_major,
            row.fw_api_minor,
            row.fw_build_id,
            row.fw_digest,
            row.launch_description,
        )
        return Connection(client_id, _connection_key(row.symkey), evidence)


def _connection_row(connection: Connection) -> dict[str, object]:
    evidence = connection.evidence
    return {
        "id": str(connection.client_id),
        "policy": columns.signed(evidence.policy),
        "fw_api_major": evidence.api_major,
        "fw_api_minor": evidence.api_minor,
        "fw_build_id": evidence.build_id,
        "launch_description": evidence.description,
        "fw_digest": evidence.digest,
        "symkey": encode_base64(connection.key.reveal()),
        "create_date": columns.now(),
    }


def _connection_key(text: str) -> SecretBytes:
    try:
        key = SecretBytes(decode_base64(text, limit=CONNECTION_KEY_SIZE))
    except DecodeError:
        # The decoder's words tell a byte of the key.
        raise _malformed() from None
    if len(key) != CONNECTION_KEY_SIZE:
        raise _malformed()
    return key


def _malformed() -> DecodeError:
    return DecodeError("the connection's record cannot be read", code="connection.malformed")
