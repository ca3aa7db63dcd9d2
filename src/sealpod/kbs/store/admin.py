# SPDX-License-Identifier: Apache-2.0
"""What the key owner's commands share: valid identifiers, rows by their exact id, and policies by name.

simple-kbs' tables refer to policies by number. A policy made here has a name beside its number; one made by
a hand-written statement has only the number, and its digits are then what it is called by.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, Label, Row, Select, Table, case, cast, func, insert, select, text, update
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import String

from sealpod.errors import ConflictError, NotFoundError, UsageError
from sealpod.kbs.store import schema

REFERRING: Final[tuple[tuple[str, Table, str], ...]] = (
    ("secret", schema.secrets, "secret_id"),
    ("keyset", schema.keysets, "keysetid"),
    ("report key", schema.report_keypair, "key_id"),
    ("resource", schema.resources, "resource_id"),
)
"""What may name a policy: noun, table, column of its id."""

MISSING: Final = " (missing)"
"""Follows the number of a policy that is named but not there: whatever names it is not released."""


def check_identifier(noun: str, text: str, *, limit: int) -> None:
    """:raise UsageError: empty, too long, or with characters that do not show."""
    if not text or len(text) > limit:
        raise UsageError(f"a {noun} id has 1 to {limit} characters", code=f"{noun}.id")
    if not text.isprintable() or text != text.strip():
        raise UsageError(
            f"a {noun} id is printable and has no space at its ends: {text!r}", code=f"{noun}.id"
        )


def storable(dialect: str, name: str) -> bool:
    """Whether this database can have a row of this name at all; asking for others is an error of its own.

    No database has half characters, which is what Python makes of arguments that are not UTF-8; PostgreSQL
    has no NUL in texts, and simple-kbs' columns on MySQL no characters beyond 16 bits.
    """
    if "\0" in name or any("\ud800" <= one <= "\udfff" for one in name):
        return False
    return not (dialect in ("mysql", "mariadb") and any(one > "\uffff" for one in name))


def exact(
    connection: Connection, statement: Select[Any], column: ColumnElement[Any], name: str
) -> Row[Any] | None:
    """The row whose ``column`` is exactly ``name``; MySQL's ``=`` may find others."""
    if not storable(connection.dialect.name, name):
        return None
    rows = connection.execute(statement.add_columns(column.label("exact_name")).where(column == name)).all()
    return next((row for row in rows if row.exact_name == name), None)


def exact_row(connection: Connection, table: Table, key: str, name: str) -> int | None:
    """The number of the row called exactly ``name``."""
    row = exact(connection, select(table.c.id), table.c[key], name)
    return None if row is None else int(row.id)


def put_row(connection: Connection, table: Table, key: str, name: str, values: dict[str, Any]) -> None:
    """Make the row called ``name``, or give it these values.

    :raise ConflictError: the database takes another row's id for the same one.
    """
    if not storable(connection.dialect.name, name):
        raise UsageError(f"this database cannot have the id {name!r}", code="store.same-id")
    number = exact_row(connection, table, key, name)
    if number is not None:
        connection.execute(update(table).where(table.c.id == number).values(values))
        return
    twin = connection.execute(select(table.c[key]).where(table.c[key] == name)).scalars().first()
    if twin is not None:
        raise ConflictError(
            f"this database takes {name!r} and {twin!r} for the same id",
            code="store.same-id",
            remedy="choose an id that differs by more than case or spaces",
        )
    advance_numbers(connection, table)
    connection.execute(insert(table).values({key: name, **values}))


def advance_numbers(connection: Connection, table: Table) -> None:
    """Let the next row's number be free.

    A statement that gives a number itself, as simple-kbs' tutorial does, moves the counters of MySQL and
    SQLite on but not PostgreSQL's.
    """
    if connection.dialect.name == "postgresql":
        numbers = f"pg_get_serial_sequence('{table.name}', 'id')"
        connection.execute(
            text(
                f"SELECT setval({numbers}, max(id)) FROM {table.name} "  # noqa: S608 - our own tables' names
                f"HAVING max(id) > coalesce(pg_sequence_last_value({numbers}::regclass), 0)"
            )
        )


def policy_number(connection: Connection, name: str | None) -> int | None:
    """The number of the policy called ``name``; None stays None.

    :raise NotFoundError: there is no such policy.
    """
    if name is None:
        return None
    names, policy = schema.policy_names, schema.policy
    row = exact(connection, select(names.c.polid), names.c.name, name)
    if row is not None:
        return int(row.polid)
    if name.isascii() and name.isdigit() and len(name) < 10:
        number = connection.execute(select(policy.c.id).where(policy.c.id == int(name))).scalar_one_or_none()
        if number is not None:
            return int(number)
    raise NotFoundError(
        f"no policy {name!r}",
        code="policy.unknown",
        remedy="set it first with `sealpod kbs policy set`, or see `sealpod kbs policy list`",
    )


def policy_label(polid: ColumnElement[int]) -> Label[str | None]:
    """A column ``policy``: name of the policy ``polid`` refers to, else its number; NULL for none."""
    names, policy = schema.policy_names, schema.policy
    digits = cast(polid, String(32))
    name = select(names.c.name).where(names.c.polid == polid).scalar_subquery()
    there = select(policy.c.id).where(policy.c.id == polid).exists()
    return case((polid.is_(None), None), (there, func.coalesce(name, digits)), else_=digits + MISSING).label(
        "policy"
    )
