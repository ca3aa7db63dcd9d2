# SPDX-License-Identifier: Apache-2.0
"""Opening a database: files, URLs, pools; its errors as ours. What all databases share is contract/kbs."""

from __future__ import annotations

import os
import socket
import sqlite3
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pymysql
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from sealpod.errors import (
    AccessError,
    NotFoundError,
    OperationError,
    SealpodError,
    UnavailableError,
    UsageError,
)
from sealpod.kbs.store import columns, engine, secrets
from sealpod.kbs.store.database import Database, open_database
from sealpod.kbs.store.engine import connect_engine, fetch, masked, open_engine, parse_url, writing
from sealpod.kbs.store.failures import translated
from sealpod.secret import SecretBytes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kbs.db"


@pytest.fixture
def db(path: Path) -> Iterator[Database]:
    with open_database(f"sqlite:///{path}") as made:
        yield made


class TestFile:
    def test_made_for_its_owner_alone(self, db: Database, path: Path) -> None:
        assert path.stat().st_mode & 0o777 == 0o600

    def test_opening_twice(self, db: Database, path: Path) -> None:
        open_engine(f"sqlite:///{path}").dispose()

    def test_many_processes_may_make_it_at_once(self, path: Path) -> None:
        failures: list[BaseException] = []
        keys: set[str] = set()
        barrier = threading.Barrier(4)

        def make() -> None:
            barrier.wait(timeout=10)
            try:
                with open_database(f"sqlite:///{path}") as db:
                    assert db.sealer.keys is not None
                    keys.add(db.sealer.keys.ring().active)
            except BaseException as error:
                failures.append(error)
                raise

        threads = [threading.Thread(target=make) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert not failures
        assert len(keys) == 1

    def test_a_directory_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match="directory does not exist"):
            open_engine(f"sqlite:///{tmp_path}/no/kbs.db")

    def test_a_directory_in_its_place(self, tmp_path: Path) -> None:
        with pytest.raises(SealpodError):
            open_engine(f"sqlite:///{tmp_path}")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_no_permission(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        with pytest.raises(SealpodError):
            open_engine(f"sqlite:///{tmp_path}/kbs.db")

    def test_a_full_disk_says_so_and_loses_nothing(self, db: Database) -> None:
        secrets.set_secret(db, "kept", SecretBytes(b"k"), policy=None)
        with db.engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            # SQLite's own limit gives the same error as the disk's.
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

        def fill() -> None:
            for number in range(200):
                name = f"{len(secrets.list_secrets(db))} {number} {'x' * 900}"
                secrets.set_secret(db, name, SecretBytes(bytes(600)), policy=None)

        with pytest.raises(UnavailableError) as caught:
            fill()
        assert caught.value.code == "store.full"
        assert secrets.show_secret(db, "kept").size == 1
        before = len(secrets.list_secrets(db))
        with pytest.raises(UnavailableError):
            fill()
        with db.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count=100000")
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
        secrets.set_secret(db, "after", SecretBytes(b"k"), policy=None)
        assert len(secrets.list_secrets(db)) >= before + 1

    def test_another_process_that_does_not_end_its_write(
        self, db: Database, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine, "BUSY_TIMEOUT", 0.05)
        other = sqlite3.connect(path)
        other.execute("BEGIN IMMEDIATE")
        with open_database(f"sqlite:///{path}") as second:
            with pytest.raises(UnavailableError) as caught:
                secrets.set_secret(second, "x", SecretBytes(b"k"), policy=None)
            assert caught.value.code == "store.unavailable"
            other.rollback()
            other.close()
            secrets.set_secret(second, "x", SecretBytes(b"k"), policy=None)


class TestUrl:
    @pytest.mark.parametrize(
        ("given", "driver"),
        [
            ("mysql://u:p@h/d", "mysql+pymysql"),
            ("mariadb://u:p@h/d", "mysql+pymysql"),
            ("postgres://u:p@h/d", "postgresql+psycopg"),
            ("postgresql://u:p@h/d", "postgresql+psycopg"),
            ("sqlite:////var/lib/kbs.db", "sqlite"),
            ("mysql+mysqldb://u:p@h/d", "mysql+mysqldb"),
        ],
    )
    def test_driver(self, given: str, driver: str) -> None:
        assert parse_url(given).drivername == driver

    @pytest.mark.parametrize("given", ["", "nonsense", "sqlite://", "sqlite:///:memory:"])
    def test_none(self, given: str) -> None:
        with pytest.raises(UsageError):
            parse_url(given)

    def test_a_missing_driver_is_named(self) -> None:
        with pytest.raises(UsageError, match="pg8000"):
            open_engine("postgresql+pg8000://u:secret@h/d")

    def test_a_password_is_not_told(self) -> None:
        assert masked("mysql://u:hunter2@h/d") == "mysql+pymysql://u:***@h/d"
        with pytest.raises(SealpodError) as caught:
            open_engine("nonsense+driver://u:hunter2@h/d")
        assert "hunter2" not in caught.value.one_line()

    @pytest.mark.parametrize("kind", ["mysql", "postgresql"])
    def test_a_server_that_is_not_there(self, kind: str) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # Bound and not listening: nobody else can.
            with pytest.raises(UnavailableError) as caught:
                open_engine(f"{kind}://u:hunter2@127.0.0.1:{taken.getsockname()[1]}/d")
        assert caught.value.code == "store.unavailable"
        assert "nothing listens there" in caught.value.message
        assert "hunter2" not in caught.value.one_line() + repr(caught.value.__context__)

    def test_a_password_beyond_latin_1(self) -> None:
        """The driver is given it in UTF-8; it would refuse the text before it connects."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            with pytest.raises(UnavailableError):
                open_engine(f"mysql://u:пароль€@127.0.0.1:{taken.getsockname()[1]}/d")

    def test_a_certificate_that_is_not_trusted(self) -> None:
        original = pymysql.err.OperationalError(2003, "to 'hunter2'")
        original.original_exception = ssl.SSLCertVerificationError()  # type: ignore[attr-defined]
        with pytest.raises(UnavailableError, match="2003: its certificate is not trusted"), translated():
            raise OperationalError("SELECT 1", {}, original)

    def test_the_pool_is_constant(self, path: Path) -> None:
        made = connect_engine(f"sqlite:///{path}", pool_size=2)
        held = [made.connect() for _ in range(2)]
        assert made.pool.status().startswith("Pool size: 2")
        for one in held:
            one.close()
        made.dispose()

    def test_a_pool_that_is_used_up(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine, "BUSY_TIMEOUT", 0.05)
        made = connect_engine(f"sqlite:///{path}", pool_size=1)
        with made.connect(), pytest.raises(UnavailableError) as caught:
            fetch(made, text("SELECT 1"))
        assert caught.value.code == "store.busy"
        made.dispose()


class TestFailures:
    """A driver's error, and what becomes of it. The texts hold a value, which must not come through."""

    @pytest.mark.parametrize(
        ("number", "family", "code"),
        [
            (2003, UnavailableError, "store.unavailable"),
            (2013, UnavailableError, "store.unavailable"),
            (1213, UnavailableError, "store.unavailable"),
            (1040, UnavailableError, "store.unavailable"),
            (1290, UnavailableError, "store.unavailable"),
            (1114, UnavailableError, "store.full"),
            (1045, AccessError, "store.access"),
            (3118, AccessError, "store.access"),
            (1049, NotFoundError, "store.database"),
        ],
    )
    def test_mysql(self, number: int, family: type[SealpodError], code: str) -> None:
        original = pymysql.err.OperationalError(number, "near 'hunter2'")
        with pytest.raises(family) as caught, translated():
            raise OperationalError("SELECT 'hunter2'", {}, original)
        assert caught.value.code == code
        assert str(number) in caught.value.message
        assert "hunter2" not in caught.value.one_line()

    @pytest.mark.parametrize(
        ("state", "family", "code"),
        [
            ("40001", UnavailableError, "store.unavailable"),
            ("57P01", UnavailableError, "store.unavailable"),
            ("25006", UnavailableError, "store.unavailable"),
            ("53100", UnavailableError, "store.full"),
            ("28P01", AccessError, "store.access"),
            ("42501", AccessError, "store.access"),
            ("3D000", NotFoundError, "store.database"),
        ],
    )
    def test_postgresql(self, state: str, family: type[SealpodError], code: str) -> None:
        original = psycopg.errors.lookup(state)("near 'hunter2'")
        with pytest.raises(family) as caught, translated():
            raise DBAPIError.instance("SELECT 'hunter2'", {}, original, psycopg.Error)
        assert caught.value.code == code
        assert "hunter2" not in caught.value.one_line()

    def test_a_refused_statement(self) -> None:
        with pytest.raises(OperationError) as caught, translated():
            raise IntegrityError("INSERT 'hunter2'", {}, pymysql.err.IntegrityError(1062, "entry 'hunter2'"))
        assert caught.value.code == "store.failed"
        assert "hunter2" not in caught.value.one_line()

    def test_a_lost_connection_is_used_no_more(self, path: Path) -> None:
        """A read is asked once more on a new connection when the old one is lost."""
        made = connect_engine(f"sqlite:///{path}")
        calls = 0

        class Flaky:
            dialect = type("Dialect", (), {"name": "mysql"})()

            def connect(self) -> object:
                nonlocal calls
                calls += 1
                if calls == 1:
                    raise OperationalError("SELECT", {}, pymysql.err.OperationalError(2006, "gone"))
                return made.connect()

        assert [row[0] for row in fetch(Flaky(), text("SELECT 1"))] == [1]  # type: ignore[arg-type]
        calls = 0
        Flaky.dialect.name = "sqlite"
        with pytest.raises(UnavailableError):
            fetch(Flaky(), text("SELECT 1"))  # type: ignore[arg-type]
        made.dispose()

    def test_a_failed_transaction_leaves_nothing(self, db: Database) -> None:
        def fail() -> None:
            with writing(db.engine) as connection:
                connection.exec_driver_sql("INSERT INTO keysets VALUES (1,'K','[]',NULL)")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert isinstance(db.engine, Engine)
        assert fetch(db.engine, text("SELECT * FROM keysets")) == []


def test_signed_words() -> None:
    for word in (0, 1, 2**31 - 1, 2**31, 2**32 - 1):
        assert -(2**31) <= columns.signed(word) < 2**31
        assert columns.unsigned(columns.signed(word)) == word
