# SPDX-License-Identifier: Apache-2.0
"""simple-kbs' environment variables as a database URL.

``KBS_DB_TYPE``, ``KBS_DB_HOST``, ``KBS_DB_USER``, ``KBS_DB_PW``, ``KBS_DB`` and ``KBS_DB_MAX_CONNS``, each
also with ``_FILE`` at its end and the name of a file, as container platforms hand secrets over. What
simple-kbs puts into its URL as it stands (a password with ``@``, ``/`` or ``%``) is quoted here. SQLite needs
``KBS_DB`` alone, and is called ``sqlite`` or ``sqlite3``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from sqlalchemy.engine import URL

from sealpod.errors import AccessError, NotFoundError, OperationError, UsageError

TYPES: Final = {
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "sqlite": "sqlite",
    "sqlite3": "sqlite",
}
"""What simple-kbs calls a database, and its driver here."""
MAX_VALUE: Final = 4096
"""Characters of one value; the longest is a path."""

_HOST: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%a-z]+\]|[^:\[\]/@?\s]+)(?::(?P<port>[0-9]{1,5}))?")
_REMEDY: Final = (
    "set KBS_DB_TYPE to mysql, postgres or sqlite, and KBS_DB_HOST, KBS_DB_USER, KBS_DB_PW and KBS_DB, or "
    "each with _FILE and a file's name"
)


def url_from_environment(environment: Mapping[str, str]) -> URL | None:
    """The database the variables name; None when there is no ``KBS_DB_TYPE``.

    :raise UsageError: one is missing or has no possible value. :raise SealpodError: a file cannot be read.
    """
    kind = _value(environment, "KBS_DB_TYPE")
    if not kind:
        return None
    driver = TYPES.get(kind.lower())
    if driver is None:
        raise UsageError(f"Unknown Database Type {kind[:40]!r}", code="store.environment", remedy=_REMEDY)
    database = _required(environment, "KBS_DB")
    if driver == "sqlite":
        return URL.create(driver, database=database)
    host = _required(environment, "KBS_DB_HOST")
    user = _required(environment, "KBS_DB_USER")
    return _with_host(
        URL.create(driver, username=user, password=_value(environment, "KBS_DB_PW"), database=database), host
    )


def max_connections(environment: Mapping[str, str]) -> int | None:
    """``KBS_DB_MAX_CONNS``, if it is set. :raise UsageError: it is not a number from 1 to 10000."""
    text = _value(environment, "KBS_DB_MAX_CONNS")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 10_000):
        raise UsageError(
            f"KBS_DB_MAX_CONNS is not a number from 1 to 10000: {text[:20]!r}", code="store.environment"
        )
    return int(text)


def _with_host(url: URL, host: str) -> URL:
    if host.startswith("/"):
        # A socket: of the server for MySQL, its directory for PostgreSQL.
        name = "unix_socket" if url.get_backend_name() == "mysql" else "host"
        return url.set(query={name: host})
    match = _HOST.fullmatch(host)
    if match is None or int(match["port"] or 0) > 0xFFFF:
        raise UsageError(f"KBS_DB_HOST is not HOST or HOST:PORT: {host[:80]!r}", code="store.environment")
    port = match["port"]
    return url.set(host=match["host"].strip("[]"), port=None if port is None else int(port))


def _required(environment: Mapping[str, str], name: str) -> str:
    value = _value(environment, name)
    if not value:
        raise UsageError(f"{name} is not set", code="store.environment", remedy=_REMEDY)
    return value


def _value(environment: Mapping[str, str], name: str) -> str | None:
    path = environment.get(f"{name}_FILE")
    if not path:
        return environment.get(name)
    if environment.get(name):
        raise UsageError(f"both {name} and {name}_FILE are set", code="store.environment")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_VALUE + 1)
    except FileNotFoundError:
        raise NotFoundError(f"no file {path!r} ({name}_FILE)", code="store.environment") from None
    except PermissionError:
        raise AccessError(f"no permission to read {path!r} ({name}_FILE)", code="store.environment") from None
    except (OSError, ValueError) as error:
        raise OperationError(
            f"cannot read {path!r} ({name}_FILE): {type(error).__name__}", code="store.environment"
        ) from None
    if len(text) > MAX_VALUE:
        raise UsageError(f"{path!r} ({name}_FILE) is too long", code="store.environment")
    # Editors and `echo` end a file with a line feed; a password that does is not one anybody types.
    return text.removesuffix("\n").removesuffix("\r")
