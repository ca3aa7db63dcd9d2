# SPDX-License-Identifier: Apache-2.0
"""Errors of the database as ours: what failed and whether asking again helps, never a value.

SQLAlchemy's own texts hold the statement, and a server's may quote a value, so only numbers, the driver's
class and words of our own are told.
"""

from __future__ import annotations

import sqlite3
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from sealpod.errors import AccessError, NotFoundError, OperationError, SealpodError, UnavailableError

_WORDS: Final[dict[int | str, str]] = {
    1040: "too many connections",
    1205: "a lock was not given in time",
    1213: "deadlock",
    2002: "nothing listens there",
    2003: "nothing listens there",
    2005: "unknown host",
    2006: "connection lost",
    2013: "connection lost",
    "40001": "serialization failure",
    "40P01": "deadlock",
    "53300": "too many connections",
    "57P01": "the server is stopping",
    "57P03": "the server is starting",
}
_FULL: Final[frozenset[int | str]] = frozenset({1021, 1114, "53100"})
# MySQL's further ones: a password that has expired, an account that is locked or must have TLS.
_ACCESS: Final[frozenset[int | str]] = frozenset(
    {1044, 1045, 1142, 1143, 1227, 1698, 1820, 1862, 3118, 3159, "28000", "28P01", "42501"}
)
_NO_DATABASE: Final[frozenset[int | str]] = frozenset({1049, "3D000"})
_READ_ONLY: Final[frozenset[int | str]] = frozenset({1290, 1792, 1836, "25006"})
# libpq tells a failed connection in text only; these are its and the server's fixed words.
_LIBPQ: Final = (
    ("authentication failed", "28P01"),
    ("no pg_hba.conf entry", "28000"),
    ("does not exist", "3D000"),
    ("starting up", "57P03"),
    ("shutting down", "57P01"),
    ("too many", "53300"),
    ("Connection refused", 2003),
    ("No such file", 2002),
)


@contextmanager
def translated() -> Iterator[None]:
    """Turn SQLAlchemy's errors into ours.

    :raise UnavailableError: the database cannot be reached, is locked by others, full or read-only.
    :raise AccessError: it does not let us in. :raise NotFoundError: the server has no such database.
    :raise OperationError: it refused a statement.
    """
    try:
        yield
    except SQLAlchemyError as error:
        raise _translate(error) from None


def _translate(error: SQLAlchemyError) -> SealpodError:
    if isinstance(error, PoolTimeoutError):
        return UnavailableError(
            "all connections to the database are in use", code="store.busy", remedy="allow it more of them"
        )
    original = error.orig if isinstance(error, DBAPIError) else None
    if isinstance(original, sqlite3.Error):
        return _of_sqlite(original)
    number = _number(original)
    cause = f"{type(error if original is None else original).__name__}{_suffix(number, original)}"
    if number in _FULL:
        return _full(cause)
    if number in _ACCESS:
        return AccessError(
            f"the database does not let us in ({cause})",
            code="store.access",
            remedy="check user, password and rights",
        )
    if number in _NO_DATABASE:
        return NotFoundError(
            f"the server has no such database ({cause})", code="store.database", remedy="create it first"
        )
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    if lost or number in _READ_ONLY or isinstance(error, OperationalError | InterfaceError):
        return _unavailable(cause)
    return OperationError(f"the database refused ({cause})", code="store.failed")


def _of_sqlite(error: sqlite3.Error) -> SealpodError:
    # SQLite's messages name tables and columns, never values.
    cause = f"{type(error).__name__}: {error}"
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
        return _full(cause)
    if isinstance(error, sqlite3.OperationalError):
        return _unavailable(cause)
    return OperationError(f"the database refused ({cause})", code="store.failed")


def _unavailable(cause: str) -> UnavailableError:
    return UnavailableError(
        f"the database does not answer ({cause})",
        code="store.unavailable",
        remedy="check that the database runs, is writable and has space",
    )


def _full(cause: str) -> UnavailableError:
    return UnavailableError(
        f"the database has no space left ({cause})",
        code="store.full",
        remedy="make room; what was written before is kept, what was asked for is not done",
    )


def _number(original: BaseException | None) -> int | str | None:
    """MySQL's error number or PostgreSQL's SQLSTATE."""
    first = original.args[0] if original is not None and original.args else None
    if isinstance(first, int) and not isinstance(first, bool):
        return first
    state = getattr(original, "sqlstate", None)
    if isinstance(state, str):
        return state
    if isinstance(first, str) and hasattr(original, "diag"):
        return next((number for words, number in _LIBPQ if words in first), None)
    return None


def _suffix(number: int | str | None, original: BaseException | None) -> str:
    # PyMySQL keeps what the system said about a connection that was not made.
    if isinstance(getattr(original, "original_exception", None), ssl.SSLCertVerificationError):
        return f" {number}: its certificate is not trusted"
    if number is None:
        return ""
    return f" {number}: {_WORDS[number]}" if number in _WORDS else f" {number}"
