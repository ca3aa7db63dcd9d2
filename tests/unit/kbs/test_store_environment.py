# SPDX-License-Identifier: Apache-2.0
"""simple-kbs' environment variables."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from sealpod.errors import NotFoundError, SealpodError, UsageError
from sealpod.kbs.store.environment import max_connections, url_from_environment

# The values of simple-kbs' docker-compose.yml.
COMPOSE = {
    "KBS_DB_TYPE": "mysql",
    "KBS_DB_HOST": "db",
    "KBS_DB_USER": "kbsuser",
    "KBS_DB_PW": "kbspassword",
    "KBS_DB": "simple_kbs",
}


def test_as_the_compose_file_has_them() -> None:
    url = url_from_environment(COMPOSE)
    assert url is not None
    assert url.render_as_string(hide_password=False) == "mysql+pymysql://kbsuser:kbspassword@db/simple_kbs"


def test_none_at_all() -> None:
    assert url_from_environment({}) is None
    assert url_from_environment({"KBS_DB": "x", "KBS_DB_TYPE": ""}) is None


@pytest.mark.parametrize(
    ("kind", "driver"),
    [
        ("mysql", "mysql+pymysql"),
        ("MySQL", "mysql+pymysql"),
        ("mariadb", "mysql+pymysql"),
        ("postgres", "postgresql+psycopg"),
        ("Postgres", "postgresql+psycopg"),
        ("postgresql", "postgresql+psycopg"),
    ],
)
def test_types(kind: str, driver: str) -> None:
    url = url_from_environment({**COMPOSE, "KBS_DB_TYPE": kind})
    assert url is not None
    assert url.drivername == driver


@pytest.mark.parametrize("kind", ["sqlite", "sqlite3", "Sqlite"])
@pytest.mark.parametrize("path", ["/var/lib/kbs.db", "kbs.db", "/with space/a%b?c#d@e.db"])
def test_sqlite_needs_a_path_alone(kind: str, path: str) -> None:
    url = url_from_environment({"KBS_DB_TYPE": kind, "KBS_DB": path})
    assert url is not None
    assert (url.drivername, url.database) == ("sqlite", path)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40))
def test_any_password_survives_the_url(password: str) -> None:
    url = url_from_environment({**COMPOSE, "KBS_DB_PW": password})
    assert url is not None
    text = url.render_as_string(hide_password=False)
    assert make_url(text).password == password
    assert make_url(text).host == "db"


def test_the_password_does_not_show() -> None:
    url = url_from_environment({**COMPOSE, "KBS_DB_PW": "hunter2"})
    assert "hunter2" not in repr(url) + f"{url!r}"


@pytest.mark.parametrize(
    ("host", "name", "port"),
    [
        ("db", "db", None),
        ("db:3307", "db", 3307),
        ("10.0.0.1:3306", "10.0.0.1", 3306),
        ("[::1]", "::1", None),
        ("[fe80::1]:3306", "fe80::1", 3306),
        ("db.example.org", "db.example.org", None),
    ],
)
def test_hosts(host: str, name: str, port: int | None) -> None:
    url = url_from_environment({**COMPOSE, "KBS_DB_HOST": host})
    assert url is not None
    assert (url.host, url.port) == (name, port)


def test_sockets() -> None:
    url = url_from_environment({**COMPOSE, "KBS_DB_HOST": "/run/mysqld/mysqld.sock"})
    assert url is not None
    assert dict(url.query) == {"unix_socket": "/run/mysqld/mysqld.sock"}
    url = url_from_environment({**COMPOSE, "KBS_DB_TYPE": "postgres", "KBS_DB_HOST": "/run/postgresql"})
    assert url is not None
    assert dict(url.query) == {"host": "/run/postgresql"}


@pytest.mark.parametrize("host", ["db:", "db:x", "db:99999", "a b", "user@db", "db/x", "::1", "db?x=1"])
def test_what_is_no_host(host: str) -> None:
    with pytest.raises(UsageError, match="KBS_DB_HOST"):
        url_from_environment({**COMPOSE, "KBS_DB_HOST": host})


@pytest.mark.parametrize("name", ["KBS_DB_HOST", "KBS_DB_USER", "KBS_DB"])
def test_what_is_missing_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} is not set"):
        url_from_environment({key: value for key, value in COMPOSE.items() if key != name})


def test_unknown_type() -> None:
    with pytest.raises(UsageError, match="Unknown Database Type"):
        url_from_environment({**COMPOSE, "KBS_DB_TYPE": "oracle"})


@pytest.mark.parametrize("name", list(COMPOSE))
def test_each_from_a_file(tmp_path: Path, name: str) -> None:
    file = tmp_path / "value"
    file.write_text(COMPOSE[name] + "\n")
    rest = {key: value for key, value in COMPOSE.items() if key != name}
    assert url_from_environment({**rest, f"{name}_FILE": str(file)}) == url_from_environment(COMPOSE)


def test_files_that_do_not_serve(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_text("x" * 5000)
    rest = {key: value for key, value in COMPOSE.items() if key != "KBS_DB_PW"}
    with pytest.raises(NotFoundError):
        url_from_environment({**rest, "KBS_DB_PW_FILE": str(tmp_path / "no")})
    for path in (large, tmp_path):
        with pytest.raises(SealpodError):
            url_from_environment({**rest, "KBS_DB_PW_FILE": str(path)})
    with pytest.raises(UsageError, match="both"):
        url_from_environment({**COMPOSE, "KBS_DB_PW_FILE": str(large)})


@pytest.mark.parametrize(("text", "number"), [(None, None), ("", None), ("1", 1), ("1000", 1000)])
def test_connections(text: str | None, number: int | None) -> None:
    assert max_connections({} if text is None else {"KBS_DB_MAX_CONNS": text}) == number


@pytest.mark.parametrize("text", ["0", "-1", "x", "1e3", "10001", "9" * 40, "²"])
def test_what_is_no_number_of_connections(text: str) -> None:
    with pytest.raises(UsageError):
        max_connections({"KBS_DB_MAX_CONNS": text})
