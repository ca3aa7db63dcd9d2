# SPDX-License-Identifier: Apache-2.0
"""Migrating a database up to this version's tables and back to simple-kbs' alone.

Up makes tables beside simple-kbs' and changes none of them, so that nothing can be lost. Down first writes
sealed records in plain again, as simple-kbs reads them, and then drops the tables that are ours; the audit
log and the names of policies go with them, which has to be said.

Of several processes that migrate at the same time, one does and the others wait.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, Table, false, func, inspect, select, text
from sqlalchemy.engine import Connection

from sealpod.errors import ConflictError, UnavailableError
from sealpod.kbs.store import schema
from sealpod.kbs.store.database import Database
from sealpod.kbs.store.engine import reading, writing
from sealpod.kbs.store.layout import HEAD, REVISIONS, VERSION_TABLE, Layout, State, state_of
from sealpod.kbs.store.sealed import unseal

LOCK_TIMEOUT: Final = 60
"""Seconds to wait for another process's migration."""
_LOCK_NAME: Final = "sealpod migration"
_LOCK_NUMBER: Final = 0x7365616C706F64
"""PostgreSQL's advisory locks have numbers: "sealpod" in ASCII."""
_ONE_AT_A_TIME: Final = threading.Lock()
"""Alembic keeps the running migration in a variable of its module."""


def upgrade(engine: Engine) -> State:
    """Make or add what this version needs; nothing to do is no error.

    :raise ConflictError: ``store.layout``: a table of simple-kbs' name has other columns.
    """
    with _migrating(engine) as connection:
        _check_columns(connection)
        command.upgrade(_config(connection), HEAD)
    return state_of(engine)


def downgrade(db: Database, *, discard: bool = False) -> State:
    """Give simple-kbs' tables back as it knows them.

    Needs the key-encryption keys of all sealed records.

    :raise ConflictError: ``store.would-lose``: there are records simple-kbs has no place for, and ``discard``
        does not say that they may go.
    :raise VerificationError: a record cannot be unsealed; nothing was dropped.
    """
    found = state_of(db.engine)
    if found.layout not in (Layout.CURRENT, Layout.OLD):
        return found
    if found.layout is Layout.OLD:
        # Down from where this version stands: it knows what every step back gives up.
        upgrade(db.engine)
    if not discard:
        _refuse_losses(db.engine)
    unseal(db)
    with _migrating(db.engine) as connection:
        command.downgrade(_config(connection), "base")
        connection.execute(text(f"DROP TABLE {VERSION_TABLE}"))
    return state_of(db.engine)


def _refuse_losses(engine: Engine) -> None:
    losses = []
    with reading(engine) as connection:
        for noun, table in (("audit records", schema.audit), ("names of policies", schema.policy_names)):
            count = connection.execute(select(func.count()).select_from(table)).scalar_one()
            if count:
                losses.append(f"{count} {noun}")
    if losses:
        raise ConflictError(
            f"going back to simple-kbs' tables would lose {' and '.join(losses)}",
            code="store.would-lose",
            remedy="keep what `sealpod kbs audit export` and `policy list` print, then say --discard",
        )


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", "sealpod.kbs.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


@contextmanager
def _migrating(engine: Engine) -> Iterator[Connection]:
    """A transaction that no other migration runs beside."""
    with _ONE_AT_A_TIME, writing(engine) as connection:
        name = engine.dialect.name
        if name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
        elif name == "postgresql":
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}s'"))
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK_NUMBER})"))
            yield connection
        else:
            # Its statements on tables commit at once, so the lock is the session's.
            got = connection.execute(
                text("SELECT GET_LOCK(:name, :seconds)"), {"name": _LOCK_NAME, "seconds": LOCK_TIMEOUT}
            ).scalar()
            if got != 1:
                raise UnavailableError("another migration is running", code="store.unavailable")
            try:
                yield connection
            finally:
                connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": _LOCK_NAME})


def _check_columns(connection: Connection) -> None:
    there = set(inspect(connection).get_table_names())
    for table in _upstream():
        if table.name not in there:
            continue
        # Asked of a statement: reading the types too would stumble over those of SQLite, which are any words.
        present = set(connection.execute(select(text("*")).select_from(table).where(false())).keys())
        missing = [column.name for column in table.columns if column.name not in present]
        if missing:
            raise ConflictError(
                f"table {table.name} has no column {missing[0]}: it is not simple-kbs'",
                code="store.layout",
                remedy="give the key broker a database of its own",
            )


def _upstream() -> list[Table]:
    return [table for table in schema.metadata.sorted_tables if not table.name.startswith("sealpod_")]


__all__ = ["REVISIONS", "downgrade", "upgrade"]
