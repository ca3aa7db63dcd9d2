# SPDX-License-Identifier: Apache-2.0
"""Opening the database: a SQLAlchemy engine from a URL, its tables made when they are not there.

A SQLite file is created 0600, in write-ahead mode so that readers and the broker's writes do not wait for
each other; its ``-wal`` and ``-shm`` companions take the file's mode. A served database gets a constant
number of connections, each asked whether it still lives after it lay idle, and reads what others committed
(READ COMMITTED), which also keeps MySQL from locking gaps between rows. Errors of the database become ours
(:mod:`sealpod.kbs.store.failures`).
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Engine, Executable, Row, create_engine, event
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, NoSuchModuleError
from sqlalchemy.pool import ConnectionPoolEntry

from sealpod.errors import AccessError, NotFoundError, OperationError, UnavailableError, UsageError
from sealpod.kbs.store.environment import TYPES
from sealpod.kbs.store.failures import translated

BUSY_TIMEOUT: Final = 10.0
"""Seconds a SQLite statement waits for another process's write, and a call for a connection of the pool.
Kata gives a call ten."""
CONNECT_TIMEOUT: Final = 10
"""Seconds to connect to a served database."""
STATEMENT_TIMEOUT: Final = 30
"""Seconds without an answer after which a connection to MySQL is given up."""
IDLE: Final = 2.0
"""Seconds after which a connection is asked whether it still lives before it is used. A database that was
restarted closed them all, and one that is loaded should not be asked before every statement."""
POOL: Final = 5
"""Connections when nobody says otherwise: a command needs one."""

_URL_REMEDY: Final = "use SQLAlchemy's form, for instance sqlite:////var/lib/sealpod/kbs.db"


def open_engine(url: str | URL, *, pool_size: int = POOL, migrate: bool = False) -> Engine:
    """An engine on a database whose tables are this version's. Close it with ``dispose()``.

    An empty database gets its tables. One that simple-kbs or an earlier version made is brought up to date
    with ``migrate``, and refused without.

    :raise UsageError: not a database URL, or its driver is not installed.
    :raise ConflictError: ``store.unmigrated``, ``store.too-new``.
    :raise NotFoundError, AccessError, UnavailableError, OperationError: the database cannot be opened.
    """
    from sealpod.kbs.store.layout import require_current

    engine = connect_engine(url, pool_size=pool_size)
    try:
        require_current(engine, migrate=migrate)
    except BaseException:
        engine.dispose()
        raise
    return engine


def connect_engine(url: str | URL, *, pool_size: int = POOL) -> Engine:
    """An engine whatever the tables are. :raise SealpodError: as :func:`open_engine`."""
    return _create(parse_url(url), pool_size)


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


def fetch(
    engine: Engine, statement: Executable, parameters: Mapping[str, Any] | None = None
) -> Sequence[Row[Any]]:
    """All rows of one reading statement, asked once more on a new connection if the old one was lost."""
    try:
        with reading(engine) as connection:
            return connection.execute(statement, parameters).all()
    except UnavailableError:
        if engine.dialect.name == "sqlite":
            raise  # It waited for its lock already, and has no connection to lose.
    with reading(engine) as connection:
        return connection.execute(statement, parameters).all()


def parse_url(url: str | URL) -> URL:
    """A URL with its driver chosen.

    :raise UsageError: it is none, or one of a database in memory.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise UsageError("not a database URL", code="store.url", remedy=_URL_REMEDY) from None
    if parsed.drivername in TYPES:
        parsed = parsed.set(drivername=TYPES[parsed.drivername])
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise UsageError(
            "a database in memory would forget the secrets", code="store.url", remedy=_URL_REMEDY
        )
    return parsed


def masked(url: str | URL) -> str:
    """A URL as it may be shown, with stars for its password."""
    return parse_url(url).render_as_string(hide_password=True)


def _create(url: URL, pool_size: int) -> Engine:
    sqlite = url.get_backend_name() == "sqlite"
    options: dict[str, Any] = {
        "hide_parameters": True,
        "pool_size": pool_size,
        "max_overflow": 0,
        "pool_timeout": BUSY_TIMEOUT,
        "connect_args": _connect_arguments(url),
    }
    if sqlite:
        _create_file(str(url.database))
    else:
        options["isolation_level"] = "READ COMMITTED"
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
    else:
        _ask_idle_connections(engine)
    return engine


def _connect_arguments(url: URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"timeout": BUSY_TIMEOUT, "check_same_thread": False}
    arguments: dict[str, Any] = {}
    if url.drivername == "mysql+pymysql":
        arguments = {
            "charset": "utf8mb4",
            "connect_timeout": CONNECT_TIMEOUT,
            "read_timeout": STATEMENT_TIMEOUT,
            "write_timeout": STATEMENT_TIMEOUT,
        }
        if url.password:
            # PyMySQL would make it Latin-1, and the server was told it in UTF-8.
            arguments["password"] = url.password.encode()
    elif url.drivername == "postgresql+psycopg":
        arguments = {"connect_timeout": CONNECT_TIMEOUT, "tcp_user_timeout": STATEMENT_TIMEOUT * 1000}
    # What the URL says itself goes before.
    return {name: value for name, value in arguments.items() if name not in url.query}


def _ask_idle_connections(engine: Engine) -> None:
    def checked_in(_connection: Any, entry: ConnectionPoolEntry) -> None:
        entry.info["idle since"] = time.monotonic()

    def checked_out(connection: Any, entry: ConnectionPoolEntry, _proxy: Any) -> None:
        since = entry.info.get("idle since")
        if since is None or time.monotonic() - since < IDLE:
            return
        if not _lives(engine, connection):
            raise DisconnectionError  # The pool takes another, or a new one.

    event.listen(engine, "checkin", checked_in)
    event.listen(engine, "checkout", checked_out)


def _lives(engine: Engine, connection: Any) -> bool:
    try:
        return bool(engine.dialect.do_ping(connection))
    except (DBAPIError, engine.dialect.loaded_dbapi.Error):
        return False


def _create_file(path: str) -> None:
    try:
        # Made here because SQLite itself would make it with the process's umask. One that is there is not
        # opened: closing it again would drop the locks of this process's other connections to it (POSIX),
        # and another process would then take itself for the only user.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if not os.access(path, os.R_OK | os.W_OK):
            raise AccessError(f"no permission for the database {path}", code="store.access") from None
        if not os.path.isfile(path):
            raise OperationError(f"the database {path} is not a file", code="store.failed") from None
    except FileNotFoundError:
        raise NotFoundError(
            f"the database's directory does not exist: {os.path.dirname(path) or '.'}",
            code="store.directory",
            remedy="create it, readable by the key broker alone",
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
