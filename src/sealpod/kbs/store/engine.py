# SPDX-License-Identifier: Apache-2.0
"""Opening the database: a SQLAlchemy engine from a URL, its tables made when they are not there.

A SQLite file is created 0600, in write-ahead mode so that readers and the broker's writes do not wait for
each other; its ``-wal`` and ``-shm`` companions take the file's mode. Errors of the database become ours,
without the values of the statement: those may be secrets.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Engine, create_engine, event, inspect
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from sealpod.errors import AccessError, NotFoundError, OperationError, UnavailableError, UsageError
from sealpod.kbs.store import schema

BUSY_TIMEOUT: Final = 10.0
"""Seconds a SQLite statement waits for another process's write. Kata gives a call ten."""

_URL_REMEDY: Final = "Use SQLAlchemy's form, for instance sqlite:////var/lib/sealpod/kbs.db"


def open_engine(url: str, *, pool_size: int = 5) -> Engine:
    """An engine on ``url`` with all tables present. Close it with ``dispose()``.

    :raise UsageError: not a database URL, or its driver is not installed.
    :raise NotFoundError, AccessError, UnavailableError, OperationError: the database cannot be opened.
    """
    parsed = _parse(url)
    engine = _create(parsed, pool_size)
    try:
        _create_tables(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _create_tables(engine: Engine) -> None:
    with translated():
        if schema.metadata.tables.keys() <= set(inspect(engine).get_table_names()):
            return
        with engine.begin() as connection:
            if engine.dialect.name == "sqlite":
                # Held while looking again and creating: two processes may start at the same time.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            schema.metadata.create_all(connection)


@contextmanager
def translated() -> Iterator[None]:
    """Turn SQLAlchemy's errors into ours. Their own text holds the statement, so only the driver's is told.

    :raise UnavailableError: the database cannot be reached or is locked by others.
    :raise OperationError: it refused a statement.
    """
    try:
        yield
    except OperationalError as error:
        raise UnavailableError(
            f"the database does not answer ({_cause(error)})",
            code="store.unavailable",
            remedy="Check that the database runs, is writable and has space",
        ) from None
    except SQLAlchemyError as error:
        raise OperationError(f"the database refused ({_cause(error)})", code="store.failed") from None


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction, committed when the block ends well; errors as :func:`translated`."""
    with translated(), engine.begin() as connection:
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection for reading; errors as :func:`translated`."""
    with translated(), engine.connect() as connection:
        yield connection


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise UsageError("not a database URL", code="store.url", remedy=_URL_REMEDY) from None
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise UsageError(
            "a database in memory would forget the secrets", code="store.url", remedy=_URL_REMEDY
        )
    return parsed


def _create(url: URL, pool_size: int) -> Engine:
    sqlite = url.get_backend_name() == "sqlite"
    options: dict[str, Any] = {"hide_parameters": True, "pool_size": pool_size, "max_overflow": pool_size}
    if sqlite:
        _create_file(str(url.database))
        options["connect_args"] = {"timeout": BUSY_TIMEOUT, "check_same_thread": False}
    else:
        # A served database closes idle connections; find out before a statement is lost.
        options["pool_pre_ping"] = True
    try:
        engine = create_engine(url, **options)
    except NoSuchModuleError:
        raise UsageError(
            f"unknown kind of database {url.drivername!r}", code="store.url", remedy=_URL_REMEDY
        ) from None
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the driver of {url.drivername!r} is not installed ({error.name})", code="store.driver"
        ) from None
    if sqlite:
        event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _create_file(path: str) -> None:
    try:
        # Made here because SQLite itself would make it with the process's umask.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except FileNotFoundError:
        raise NotFoundError(
            f"the database's directory does not exist: {os.path.dirname(path) or '.'}",
            code="store.directory",
            remedy="Create it, readable by the key broker alone",
        ) from None
    except PermissionError:
        raise AccessError(f"no permission for the database {path}", code="store.access") from None
    except OSError as error:
        raise OperationError(
            f"cannot open the database {path}: {error.strerror}", code="store.failed"
        ) from error


def _prepare_sqlite(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # A commit is on disk when it returns: a spent launch id must stay spent, a kept connection kept.
    cursor.execute("PRAGMA synchronous=FULL")
    # Deleted secrets and launches are overwritten with zeros rather than left in free pages.
    cursor.execute("PRAGMA secure_delete=ON")
    cursor.close()


def _cause(error: SQLAlchemyError) -> str:
    original = error.orig if isinstance(error, DBAPIError) else None
    if isinstance(original, sqlite3.Error):
        # SQLite's messages name tables and columns, never values.
        return f"{type(original).__name__}: {original}"
    return type(error if original is None else original).__name__
