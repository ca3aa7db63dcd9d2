# SPDX-License-Identifier: Apache-2.0
"""The key owner's secrets: set, list, show, delete."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, delete, select

from sealpod.errors import ConflictError, DecodeError, NotFoundError, UsageError, VerificationError
from sealpod.kbs.core.encoding import decode_base64, encode_base64
from sealpod.kbs.core.sealing import is_sealed
from sealpod.kbs.store import columns, schema
from sealpod.kbs.store.admin import check_identifier, exact, exact_row, policy_label, policy_number, put_row
from sealpod.kbs.store.database import Database
from sealpod.kbs.store.engine import reading
from sealpod.secret import SecretBytes

TABLE: Final = "secrets"


@dataclass(frozen=True, slots=True)
class SecretInfo:
    """A secret without its value. ``size`` is in bytes, None when its row is not base64 or does not open."""

    id: str
    size: int | None
    policy: str | None
    sealed: bool = False


def set_secret(db: Database, secret_id: str, value: SecretBytes, *, policy: str | None) -> None:
    """Make or replace a secret; without ``policy`` it has none afterwards.

    :raise UsageError: an id or a value that does not fit. :raise NotFoundError: no such policy.
    """
    check_identifier("secret", secret_id, limit=schema.MAX_SECRET_ID)
    largest = db.sealer.limit(schema.MAX_SECRET_TEXT)
    if not 0 < len(value) <= largest:
        raise UsageError(
            f"a secret has 1 to {largest} bytes, this one {len(value)}",
            code="secret.size",
            remedy="store a key and encrypt what it protects",
        )
    text = SecretBytes(encode_base64(value.reveal()).encode("ascii"))
    written = db.sealer.seal_text(TABLE, secret_id, text, width=schema.MAX_SECRET_TEXT)
    with db.writing() as connection:
        row = {"secret": written, "polid": policy_number(connection, policy)}
        put_row(connection, schema.secrets, "secret_id", secret_id, row)


def list_secrets(db: Database) -> tuple[SecretInfo, ...]:
    """All secrets by id."""
    with reading(db.engine) as connection:
        rows = connection.execute(_select().order_by(schema.secrets.c.secret_id)).all()
    return tuple(_info(db, row) for row in rows if row.secret_id is not None)


def show_secret(db: Database, secret_id: str) -> SecretInfo:
    """One secret without its value. :raise NotFoundError: there is none."""
    return _info(db, _row(db, secret_id))


def reveal_secret(db: Database, secret_id: str) -> SecretBytes:
    """A secret's value as base64 text, or whatever text a hand-written statement put there.

    :raise NotFoundError: there is none. :raise VerificationError: it does not open.
    """
    return _open(db, _row(db, secret_id))


def delete_secret(db: Database, secret_id: str) -> None:
    """:raise NotFoundError: there is none. :raise ConflictError: a keyset holds it."""
    with db.writing() as connection:
        users = _keysets_with(connection, secret_id)
        if users:
            raise ConflictError(
                f"secret {secret_id!r} is in keyset {', '.join(users)}",
                code="secret.in-use",
                remedy="set the keyset without it, or delete the keyset, first",
            )
        row = exact_row(connection, schema.secrets, "secret_id", secret_id)
        if row is None:
            raise unknown_secret(secret_id)
        connection.execute(delete(schema.secrets).where(schema.secrets.c.id == row))


def unknown_secret(secret_id: str) -> NotFoundError:
    """The error for a secret that is not there."""
    return NotFoundError(
        f"no secret {secret_id!r}",
        code="secret.unknown",
        remedy="set it with `sealpod kbs secret set`, or see `sealpod kbs secret list`",
    )


def _select() -> Select[Any]:
    table = schema.secrets
    return select(table.c.secret_id, table.c.secret, policy_label(table.c.polid))


def _row(db: Database, secret_id: str) -> Row[Any]:
    with reading(db.engine) as connection:
        row = exact(connection, _select(), schema.secrets.c.secret_id, secret_id)
    if row is None:
        raise unknown_secret(secret_id)
    return row


def _open(db: Database, row: Row[Any]) -> SecretBytes:
    return db.sealer.open_text(TABLE, str(row.secret_id), columns.words(row.secret))


def _info(db: Database, row: Row[Any]) -> SecretInfo:
    sealed = is_sealed(columns.words(row.secret))
    try:
        text = _open(db, row).reveal().decode()
        size = len(decode_base64(text, limit=len(text)))
    except (DecodeError, VerificationError):
        return SecretInfo(str(row.secret_id), None, row.policy, sealed)
    return SecretInfo(str(row.secret_id), size, row.policy, sealed)


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
