# SPDX-License-Identifier: Apache-2.0
"""The key owner's resources: files the broker releases by their type.

A row names the file; what is in it is read when it is asked for
(:mod:`sealpod.kbs.store.files`), and never through a path that leaves the broker's directory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, Select, delete, select

from sealpod.errors import NotFoundError, UsageError
from sealpod.kbs.store import schema
from sealpod.kbs.store.admin import check_identifier, exact_row, policy_label, policy_number, put_row
from sealpod.kbs.store.database import Database
from sealpod.kbs.store.engine import reading

MAX_TEXT: Final = 1024
"""Characters of id, type and path: the columns' width."""


@dataclass(frozen=True, slots=True)
class ResourceInfo:
    """A resource. ``first`` says that requests for its type get this one: simple-kbs takes the first row."""

    id: str
    type: str | None
    path: str | None
    policy: str | None
    first: bool


def set_resource(db: Database, resource_id: str, *, kind: str, path: str, policy: str | None) -> None:
    """Make or replace a resource.

    :raise UsageError: an id, a type or a path that does not fit. :raise NotFoundError: no such policy.
    """
    check_identifier("resource", resource_id, limit=MAX_TEXT)
    check_identifier("resource", kind, limit=MAX_TEXT)
    _check_path(path)
    with db.writing() as connection:
        row = {
            "resource_type": kind,
            "resource_path": path,
            "polid": policy_number(connection, policy),
        }
        put_row(connection, schema.resources, "resource_id", resource_id, row)


def list_resources(db: Database) -> tuple[ResourceInfo, ...]:
    """All resources in the order in which requests find them."""
    with reading(db.engine) as connection:
        rows = connection.execute(_select()).all()
    seen: set[str] = set()
    found = []
    for row in rows:
        found.append(_info(row, first=row.resource_type not in seen))
        seen.add(row.resource_type)
    return tuple(found)


def show_resource(db: Database, resource_id: str) -> ResourceInfo:
    """:raise NotFoundError: there is none."""
    for one in list_resources(db):
        if one.id == resource_id:
            return one
    raise _unknown(resource_id)


def delete_resource(db: Database, resource_id: str) -> None:
    """Delete a resource; its file stays. :raise NotFoundError: there is none."""
    with db.writing() as connection:
        row = exact_row(connection, schema.resources, "resource_id", resource_id)
        if row is None:
            raise _unknown(resource_id)
        connection.execute(delete(schema.resources).where(schema.resources.c.id == row))


def _check_path(path: str) -> None:
    check_identifier("resource", path, limit=MAX_TEXT)
    if path.startswith("/") or ".." in path.split("/"):
        raise UsageError(
            f"not a path below the broker's resources: {path!r}",
            code="resource.path",
            remedy="give it relative to that directory, without ..",
        )


def _select() -> Select[Any]:
    table = schema.resources
    return select(
        table.c.resource_id, table.c.resource_type, table.c.resource_path, policy_label(table.c.polid)
    ).order_by(table.c.id)


def _info(row: Row[Any], *, first: bool) -> ResourceInfo:
    return ResourceInfo(str(row.resource_id), row.resource_type, row.resource_path, row.policy, first)


def _unknown(resource_id: str) -> NotFoundError:
    return NotFoundError(
        f"no resource {resource_id!r}",
        code="resource.unknown",
        remedy="set it with `sealpod kbs resource set`, or see `sealpod kbs resource list`",
    )
