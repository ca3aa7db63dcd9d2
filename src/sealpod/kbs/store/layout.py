# SPDX-License-Identifier: Apache-2.0
"""Whose tables a database has: none, simple-kbs', those of this version, or of another one.

Read with two short statements, so that commands need not load the migrations to learn that there is nothing
to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from sqlalchemy import Column, Engine, MetaData, String, Table, inspect, select

from sealpod.errors import ConflictError
from sealpod.kbs.store import schema
from sealpod.kbs.store.engine import reading
from sealpod.kbs.store.failures import translated

REVISIONS: Final = ("0001", "0002")
"""All revisions, oldest first; a test compares them with the migrations."""
HEAD: Final = REVISIONS[-1]
VERSION_TABLE: Final = "sealpod_schema"
UPSTREAM: Final = ("conn_bundle", "keysets", "policy", "secrets", "report_keypair", "resources")
"""simple-kbs' tables."""

_version: Final = Table(VERSION_TABLE, MetaData(), Column("version_num", String(32), primary_key=True))


class Layout(Enum):
    """What a database's tables are."""

    EMPTY = "empty"
    """None of ours and none of simple-kbs'."""
    FOREIGN = "simple-kbs"
    """simple-kbs', as its scripts made them."""
    OLD = "old"
    """Of an earlier version of sealpod."""
    CURRENT = "current"
    """Of this version."""
    NEW = "new"
    """Of a later version."""


@dataclass(frozen=True, slots=True)
class State:
    """A database's layout, and the revision it is at if it ever was migrated."""

    layout: Layout
    revision: str | None


def state_of(engine: Engine) -> State:
    """:raise SealpodError: the database cannot be asked."""
    with translated():
        tables = set(inspect(engine).get_table_names())
    if VERSION_TABLE not in tables:
        ours = tables & set(schema.metadata.tables)
        return State(Layout.FOREIGN if ours else Layout.EMPTY, None)
    with reading(engine) as connection:
        revision = connection.execute(select(_version.c.version_num)).scalars().first()
    if revision is None:
        # A migration down to nothing leaves the table of versions with no row.
        return State(Layout.FOREIGN if tables & set(UPSTREAM) else Layout.EMPTY, None)
    if revision not in REVISIONS:
        return State(Layout.NEW, revision)
    return State(Layout.CURRENT if revision == HEAD else Layout.OLD, revision)


def require_current(engine: Engine, *, migrate: bool) -> None:
    """Return with the tables of this version, made in an empty database, migrated if ``migrate`` says so.

    :raise ConflictError: ``store.unmigrated``, ``store.too-new``.
    """
    found = state_of(engine)
    if found.layout is Layout.CURRENT:
        return
    if found.layout is Layout.NEW:
        raise ConflictError(
            f"the database is at revision {found.revision} of a later sealpod; this one knows {HEAD}",
            code="store.too-new",
            remedy="use that version, or its `sealpod kbs migrate down` first",
        )
    if found.layout is not Layout.EMPTY and not migrate:
        owner = "simple-kbs" if found.layout is Layout.FOREIGN else "an earlier sealpod"
        raise ConflictError(
            f"the database has the tables of {owner} and was not migrated",
            code="store.unmigrated",
            remedy="run `sealpod kbs migrate up` after a backup, or `sealpod kbs serve --migrate`; nothing "
            "is lost, and `sealpod kbs migrate down` undoes it",
        )
    # Loaded where needed: most commands find nothing to do.
    from sealpod.kbs.store.migrate import upgrade

    upgrade(engine)
