# SPDX-License-Identifier: Apache-2.0
"""The key owner's keysets: which secrets make up a bundle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, select

from sealpod.errors import DecodeError, NotFoundError, UsageError
from sealpod.kbs.store import columns, schema
from sealpod.kbs.store.admin import (
    check_identifier,
    exact,
    exact_row,
    policy_label,
    policy_number,
    put_row,
    storable,
)
from sealpod.kbs.store.database import Database
from sealpod.kbs.store.engine import reading
from sealpod.kbs.store.secrets import unknown_secret


@dataclass(frozen=True, slots=True)
class KeysetInfo:
    """A keyset. ``secrets`` is None when its row cannot be read."""

    id: str
    secrets: tuple[str, ...] | None
    policy: str | None


def set_keyset(db: Database, keyset_id: str, members: Sequence[str], *, policy: str | None) -> None:
    """Make or replace a keyset of secrets that exist; a secret given twice is in it once.

    :raise UsageError: an id that does not fit, or no secrets.
    :raise NotFoundError: no such secret, or policy.
    """
    check_identifier("keyset", keyset_id, limit=schema.MAX_KEYSET_ID)
    if not members:
        raise UsageError("a keyset has at least one secret", code="keyset.empty")
    with db.writing() as connection:
        _must_exist(connection, members)
        row = {
            "kskeys": json.dumps(list(dict.fromkeys(members)), ensure_ascii=False),
            "polid": policy_number(connection, policy),
        }
        put_row(connection, schema.keysets, "keysetid", keyset_id, row)


def list_keysets(db: Database) -> tuple[KeysetInfo, ...]:
    """All keysets by id."""
    with reading(db.engine) as connection:
        rows = connection.execute(_select().order_by(schema.keysets.c.keysetid)).all()
    return tuple(_info(row) for row in rows)


def show_keyset(db: Database, keyset_id: str) -> KeysetInfo:
    """:raise NotFoundError: there is none."""
    with reading(db.engine) as connection:
        row = exact(connection, _select(), schema.keysets.c.keysetid, keyset_id)
    if row is None:
        raise _unknown(keyset_id)
    return _info(row)


def delete_keyset(db: Database, keyset_id: str) -> None:
    """Delete a keyset; its secrets stay. :raise NotFoundError: there is none."""
    with db.writing() as connection:
        row = exact_row(connection, schema.keysets, "keysetid", keyset_id)
        if row is None:
            raise _unknown(keyset_id)
        connection.execute(delete(schema.keysets).where(schema.keysets.c.id == row))


def _must_exist(connection: Connection, members: Sequence[str]) -> None:
    column = schema.secrets.c.secret_id
    asked = [name for name in members if storable(connection.dialect.name, name)]
    present = set(connection.execute(select(column).where(column.in_(asked))).scalars())
    for name in members:
        if name not in present:
            raise unknown_secret(name)


def _select() -> Select[Any]:
    table = schema.keysets
    return select(table.c.keysetid, table.c.kskeys, policy_label(table.c.polid))


def _info(row: Row[Any]) -> KeysetInfo:
    try:
        members = columns.names_of(row.kskeys)
    except DecodeError:
        return KeysetInfo(row.keysetid, None, row.policy)
    return KeysetInfo(row.keysetid, members, row.policy)


def _unknown(keyset_id: str) -> NotFoundError:
    return NotFoundError(
        f"no keyset {keyset_id!r}",
        code="keyset.unknown",
        remedy="set it with `sealpod kbs keyset set`, or see `sealpod kbs keyset list`",
    )
