# SPDX-License-Identifier: Apache-2.0
"""The key owner's secrets: set, list, show, delete."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, Select, delete, insert, select, update

from sealpod.errors import ConflictError, DecodeError, NotFoundError, UsageError
from sealpod.kbs.core.encoding import decode_base64, encode_base64
from sealpod.kbs.store import columns, schema
from sealpod.kbs.store.admin import check_identifier, policy_label, policy_number
from sealpod.kbs.store.engine import reading, writing
from sealpod.secret import SecretBytes

MAX_SIZE: Final = schema.MAX_SECRET_TEXT // 4 * 3
"""Bytes of a secret: 768, what simple-kbs' column holds as base64."""


@dataclass(frozen=True, slots=True)
class SecretInfo:
    """A secret without its value. ``size`` is in bytes, None when its row does not hold base64."""

    id: str
    size: int | None
    policy: str | None


def set_secret(engine: Engine, secret_id: str, value: SecretBytes, *, policy: str | None) -> None:
    """Make or replace a secret; without ``policy`` it has none afterwards.

    :raise UsageError: an id or a value that does not fit. :raise NotFoundError: no such policy.
    """
    check_identifier("secret", secret_id, limit=schema.MAX_SECRET_ID)
    if not 0 < len(value) <= MAX_SIZE:
        raise UsageError(
            f"a secret has 1 to {MAX_SIZE} bytes, this one {len(value)}",
            code="secret.size",
            remedy="Store a key and encrypt what it protects",
        )
    table = schema.secrets
    with writing(engine) as connection:
        row = {"secret": encode_base64(value.reveal()), "polid": policy_number(connection, policy)}
        changed = connection.execute(update(table).where(table.c.secret_id == secret_id).values(row))
        if changed.rowcount == 0:
            connection.execute(insert(table).values(secret_id=secret_id, **row))


def list_secrets(engine: Engine) -> tuple[SecretInfo, ...]:
    """All secrets by id."""
    with reading(engine) as connection:
        rows = connection.execute(_select().order_by(schema.secrets.c.secret_id)).all()
    return tuple(_info(row) for row in rows)


def show_secret(engine: Engine, secret_id: str) -> tuple[SecretInfo, SecretBytes]:
    """One secret and its value as base64 text, as the table has it.

    :raise NotFoundError: there is none.
    """
    with reading(engine) as connection:
        for row in connection.execute(_select().where(schema.secrets.c.secret_id == secret_id)).all():
            if row.secret_id == secret_id:
                return _info(row), SecretBytes((row.secret or "").encode())
    raise unknown_secret(secret_id)


def delete_secret(engine: Engine, secret_id: str) -> None:
    """:raise NotFoundError: there is none. :raise ConflictError: a keyset holds it."""
    table = schema.secrets
    with writing(engine) as connection:
        users = _keysets_with(connection, secret_id)
        if users:
            raise ConflictError(
                f"secret {secret_id!r} is in keyset {', '.join(users)}",
                code="secret.in-use",
                remedy="Set the keyset without it, or delete the keyset, first",
            )
        if connection.execute(delete(table).where(table.c.secret_id == secret_id)).rowcount == 0:
            raise unknown_secret(secret_id)


def unknown_secret(secret_id: str) -> NotFoundError:
    """The error for a secret that is not there."""
    return NotFoundError(
        f"no secret {secret_id!r}",
        code="secret.unknown",
        remedy="Set it with `sealpod kbs secret set`, or see `sealpod kbs secret list`",
    )


def _select() -> Select[Any]:
    table = schema.secrets
    return select(table.c.secret_id, table.c.secret, policy_label(table.c.polid))


def _info(row: Row[Any]) -> SecretInfo:
    try:
        size = len(decode_base64(row.secret or "", limit=len(row.secret or "")))
    except DecodeError:
        return SecretInfo(str(row.secret_id), None, row.policy)
    return SecretInfo(str(row.secret_id), size, row.policy)


def _keysets_with(connection: Connection, secret_id: str) -> list[str]:
    table = schema.keysets
    users = []
    for row in connection.execute(select(table.c.keysetid, table.c.kskeys)).all():
        try:
            members = columns.names_of(row.kskeys)
        except DecodeError:
            continue  # An unreadable keyset releases nothing, so it holds nothing.
        if secret_id in members:
            users.append(row.keysetid)
    return users
