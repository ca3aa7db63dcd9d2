# SPDX-License-Identifier: Apache-2.0
"""The key owner's policies: named here, numbered in simple-kbs' tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, case, delete, insert, select, update

from sealpod.errors import ConflictError, DecodeError, NotFoundError, OperationError, UsageError
from sealpod.kbs.core.policy import Rule
from sealpod.kbs.store import columns, moments, schema
from sealpod.kbs.store.admin import REFERRING, advance_numbers, check_identifier, policy_number
from sealpod.kbs.store.database import Database
from sealpod.kbs.store.engine import reading


@dataclass(frozen=True, slots=True)
class PolicyInfo:
    """A policy. ``name`` is its number as text when nobody named it.

    ``rule`` is None when its row cannot be read; such a policy, and one that is not ``valid`` (marked so, and
    between its two dates), refuses.
    """

    name: str
    number: int
    rule: Rule | None
    valid: bool


def set_policy(db: Database, name: str, rule: Rule) -> int:
    """Make a policy, or replace what the one of this name says; what refers to it keeps doing so.

    Gives its number, which positional SQL statements use.

    :raise UsageError: a name that does not fit; digits alone are the numbers of nameless policies.
    """
    check_identifier("policy", name, limit=schema.MAX_NAME)
    if name.isdigit():
        raise UsageError("a policy name is not a number", code="policy.id", remedy="give it a letter")
    with db.writing() as connection:
        try:
            number = policy_number(connection, name)
        except NotFoundError:
            number = None
        return _insert(connection, name, rule) if number is None else _replace(connection, number, rule)


def list_policies(db: Database) -> tuple[PolicyInfo, ...]:
    """All policies by number."""
    with reading(db.engine) as connection:
        rows = connection.execute(_select().order_by(schema.policy.c.id)).all()
    return tuple(_info(row) for row in rows)


def show_policy(db: Database, name: str) -> tuple[PolicyInfo, tuple[str, ...]]:
    """One policy and what refers to it, as ``noun id``. :raise NotFoundError: there is none."""
    with reading(db.engine) as connection:
        number = policy_number(connection, name)
        row = connection.execute(_select().where(schema.policy.c.id == number)).one_or_none()
        if row is None:
            # Its name outlived its row, which a hand-written statement deleted.
            raise NotFoundError(f"policy {name!r} has lost its row", code="policy.unknown")
        return _info(row), _users(connection, row.id)


def withdraw_policy(db: Database, name: str) -> None:
    """End a policy's time: what refers to it is refused from now on, until it is set again.

    :raise NotFoundError: there is none.
    """
    table = schema.policy
    with db.writing() as connection:
        number = policy_number(connection, name)
        ended = update(table).where(table.c.id == number).values(valid=0, delete_date=moments.Now())
        if connection.execute(ended).rowcount == 0:
            raise NotFoundError(f"policy {name!r} has lost its row", code="policy.unknown")


def delete_policy(db: Database, name: str) -> None:
    """:raise NotFoundError: there is none. :raise ConflictError: something refers to it."""
    names, policy = schema.policy_names, schema.policy
    with db.writing() as connection:
        number = policy_number(connection, name)
        users = _users(connection, number)
        if users:
            raise ConflictError(
                f"policy {name!r} is used by {', '.join(users)}",
                code="policy.in-use",
                remedy="set these with another policy, or delete them, first",
            )
        connection.execute(delete(names).where(names.c.polid == number))
        connection.execute(delete(policy).where(policy.c.id == number))


def _insert(connection: Connection, name: str, rule: Rule) -> int:
    advance_numbers(connection, schema.policy)
    result = connection.execute(insert(schema.policy).values(**_columns(rule), create_date=moments.Now()))
    key = result.inserted_primary_key
    if key is None:
        raise OperationError("the database gave no number for the new policy", code="store.failed")
    number = int(key[0])
    connection.execute(insert(schema.policy_names).values(name=name, polid=number))
    return number


def _replace(connection: Connection, number: int, rule: Rule) -> int:
    table = schema.policy
    changed = connection.execute(
        update(table).where(table.c.id == number).values(**_columns(rule), **_begins_now())
    )
    if changed.rowcount == 0:
        connection.execute(insert(table).values(id=number, **_columns(rule), create_date=moments.Now()))
    return number


def _begins_now() -> dict[str, object]:
    """Dates of a policy that is set again: an end is taken back, a beginning to come is now."""
    created = schema.policy.c.create_date
    return {
        "delete_date": None,
        "create_date": case((moments.has_begun(created), created), else_=moments.Now()),
    }


def _columns(rule: Rule) -> dict[str, object]:
    digests, policies, major, minor, builds = rule.columns()
    return {
        "allowed_digests": digests,
        "allowed_policies": policies,
        "min_fw_api_major": major,
        "min_fw_api_minor": minor,
        "allowed_build_ids": builds,
        "valid": 1,
    }


def _users(connection: Connection, number: int | None) -> tuple[str, ...]:
    found: list[str] = []
    for noun, table, column in REFERRING:
        statement = select(table.c[column]).where(table.c.polid == number).order_by(table.c[column])
        found += (f"{noun} {name}" for name in connection.execute(statement).scalars())
    return tuple(found)


def _select() -> Select[Any]:
    policy, names = schema.policy, schema.policy_names
    return select(
        names.c.name,
        policy.c.id,
        moments.in_force(policy).label("in_force"),
        policy.c.allowed_digests,
        policy.c.allowed_policies,
        policy.c.min_fw_api_major,
        policy.c.min_fw_api_minor,
        policy.c.allowed_build_ids,
    ).select_from(policy.outerjoin(names, names.c.polid == policy.c.id))


def _info(row: Row[Any]) -> PolicyInfo:
    rule: Rule | None
    try:
        rule = columns.read_rule(row)
    except DecodeError:
        rule = None
    return PolicyInfo(row.name or str(row.id), row.id, rule, row.in_force == 1)
