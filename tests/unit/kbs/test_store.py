# SPDX-License-Identifier: Apache-2.0
"""The database: simple-kbs' tables and statements on SQLite, launches, connections, the owner's commands."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Engine

from sealpod.errors import ConflictError, DecodeError, NotFoundError, RefusedError, SealpodError, UsageError
from sealpod.kbs.core.evidence import Evidence
from sealpod.kbs.core.policy import Rule
from sealpod.kbs.core.records import Connection, Launch
from sealpod.kbs.store import columns, keysets, policies, secrets
from sealpod.kbs.store.broker import SqlBrokerStore
from sealpod.kbs.store.engine import open_engine
from sealpod.secret import SecretBytes

KEY_B64 = "RcHGava52DPvj1uoIk/NVDYlwxi0A6yyIZ8ilhEX3X4="
# Columns in simple-kbs' order, of its db/db-sqlite.sql.
UPSTREAM = {
    "conn_bundle": "id sev_version policy fw_api_major fw_api_minor fw_build_id launch_description fw_digest "
    "symkey create_date delete_date",
    "keysets": "id keysetid kskeys polid",
    "policy": "id allowed_digests allowed_policies min_fw_api_major min_fw_api_minor allowed_build_ids "
    "create_date delete_date valid",
    "secrets": "id secret_id secret polid",
    "report_keypair": "id key_id keypair polid",
    "resources": "id resource_id resource_type resource_path polid",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kbs.db"


@pytest.fixture
def engine(path: Path) -> Iterator[Engine]:
    made = open_engine(f"sqlite:///{path}")
    yield made
    made.dispose()


@pytest.fixture
def store(engine: Engine) -> SqlBrokerStore:
    return SqlBrokerStore(engine)


def sql(path: Path, statement: str, *values: object) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    # MySQL's NOW(), so that the tutorial's statements run as they stand.
    connection.create_function("now", 0, lambda: "2024-01-01 00:00:00")
    with connection:
        rows = connection.execute(statement, values).fetchall()
    connection.close()
    return rows


class TestUpstreamsTables:
    @pytest.mark.parametrize("table", UPSTREAM)
    def test_order_of_columns(self, engine: Engine, path: Path, table: str) -> None:
        assert [row[1] for row in sql(path, f"PRAGMA table_info({table})")] == UPSTREAM[table].split()

    def test_the_tutorials_statements(self, store: SqlBrokerStore, path: Path) -> None:
        sql(path, f"REPLACE INTO secrets VALUES (10,'key_id1','{KEY_B64}',10)")
        sql(path, """REPLACE INTO keysets VALUES (10,'KEYSET-1','["key_id1"]',10)""")
        sql(path, """REPLACE INTO policy VALUES (10,'["<digest>"]','[]',0,0,'[]',now(),NULL,1)""")
        secret, keyset = store.find_secret("key_id1"), store.find_keyset("KEYSET-1")
        assert secret is not None
        assert keyset is not None
        assert secret.value.reveal() == KEY_B64.encode()
        assert keyset.members == ("key_id1",)
        assert secret.rule == keyset.rule == Rule(allowed_digests=("<digest>",))

    def test_they_take_effect_at_once(self, store: SqlBrokerStore, path: Path) -> None:
        assert store.find_secret("key_id1") is None
        sql(path, f"REPLACE INTO secrets VALUES (10,'key_id1','{KEY_B64}',NULL)")
        first = store.find_secret("key_id1")
        assert first is not None
        assert first.rule is None
        sql(path, f"REPLACE INTO secrets VALUES (10,'key_id1','{KEY_B64}',10)")
        with pytest.raises(RefusedError, match="does not exist"):
            store.find_secret("key_id1")

    def test_a_database_made_by_upstreams_script(self, tmp_path: Path) -> None:
        path = tmp_path / "upstream.db"
        sql(
            path,
            "CREATE TABLE secrets (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, secret_id varchar(1024) "
            "DEFAULT NULL, secret varchar(1024) DEFAULT NULL, polid int(11) DEFAULT NULL, UNIQUE(secret_id))",
        )
        sql(path, f"REPLACE INTO secrets VALUES (10,'key_id1','{KEY_B64}',NULL)")
        engine = open_engine(f"sqlite:///{path}")
        assert SqlBrokerStore(engine).find_secret("key_id1") is not None
        engine.dispose()

    @pytest.mark.parametrize("text", ["", "key_id", "key_id1 ", "KEY_ID1", "key_id1' --", "%", "é" * 1024])
    def test_an_id_is_exactly_itself(self, store: SqlBrokerStore, path: Path, text: str) -> None:
        sql(path, f"REPLACE INTO secrets VALUES (10,'key_id1','{KEY_B64}',NULL)")
        assert store.find_secret(text) is None

    @pytest.mark.parametrize("members", [None, "", "[", "{}", "[1]", '"x"'])
    def test_a_keyset_that_cannot_be_read(self, store: SqlBrokerStore, path: Path, members: object) -> None:
        sql(path, "REPLACE INTO keysets VALUES (10,'K',?,NULL)", members)
        with pytest.raises(DecodeError):
            store.find_keyset("K")


class TestFile:
    def test_made_for_its_owner_alone(self, engine: Engine, path: Path) -> None:
        assert path.stat().st_mode & 0o777 == 0o600

    def test_opening_twice(self, engine: Engine, path: Path) -> None:
        open_engine(f"sqlite:///{path}").dispose()

    def test_many_processes_may_make_it_at_once(self, path: Path) -> None:
        failures: list[BaseException] = []
        barrier = threading.Barrier(4)

        def make() -> None:
            barrier.wait(timeout=10)
            try:
                open_engine(f"sqlite:///{path}").dispose()
            except BaseException as error:
                failures.append(error)
                raise

        threads = [threading.Thread(target=make) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert not failures

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

    def test_a_missing_driver_is_named(self) -> None:
        with pytest.raises(UsageError, match="pg8000"):
            open_engine("postgresql+pg8000://u:secret@h/d")

    def test_a_password_is_not_told(self) -> None:
        with pytest.raises(SealpodError) as caught:
            open_engine("nonsense+driver://u:hunter2@h/d")
        assert "hunter2" not in caught.value.one_line()


def launch(number: int = 1, *, created: float = 100.0, expires: float = 200.0) -> Launch:
    return Launch(UUID(int=number), 3, b"sealed", "model", created, expires)


class TestLaunches:
    def test_kept_as_given(self, store: SqlBrokerStore) -> None:
        given = Launch(UUID(int=1), 2**32 - 1, bytes(range(60)), "AMD Milan", 100.5, 200.5)
        store.add_launch(given, limit=10)
        assert store.find_launch(given.id, now=200.0) == given

    def test_unknown_and_expired(self, store: SqlBrokerStore) -> None:
        store.add_launch(launch(), limit=10)
        assert store.find_launch(UUID(int=2), now=150.0) is None
        assert store.find_launch(UUID(int=1), now=200.0) is None
        assert not store.consume_launch(UUID(int=1), now=200.0)

    def test_spent_once(self, store: SqlBrokerStore) -> None:
        store.add_launch(launch(), limit=10)
        assert store.consume_launch(UUID(int=1), now=150.0)
        assert not store.consume_launch(UUID(int=1), now=150.0)
        assert store.find_launch(UUID(int=1), now=150.0) is None

    def test_a_race_has_one_winner(self, path: Path, store: SqlBrokerStore) -> None:
        engines = [open_engine(f"sqlite:///{path}") for _ in range(3)]
        for number in range(5):
            store.add_launch(launch(number), limit=10)
            wins: list[bool] = []
            barrier = threading.Barrier(6)

            def consume(
                engine: Engine,
                number: int = number,
                barrier: threading.Barrier = barrier,
                wins: list[bool] = wins,
            ) -> None:
                barrier.wait(timeout=10)
                wins.append(SqlBrokerStore(engine).consume_launch(UUID(int=number), now=150.0))

            threads = [threading.Thread(target=consume, args=(one,)) for one in engines * 2]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(timeout=30)
            assert sorted(wins) == [False] * 5 + [True]
        for engine in engines:
            engine.dispose()

    def test_the_cap_and_the_time(self, store: SqlBrokerStore) -> None:
        store.add_launch(launch(1), limit=2)
        store.add_launch(launch(2), limit=2)
        with pytest.raises(RefusedError) as caught:
            store.add_launch(launch(3, created=150.0), limit=2)
        assert caught.value.code == "launch.too-many"
        store.add_launch(launch(4, created=200.0, expires=300.0), limit=2)
        assert store.find_launch(UUID(int=2), now=0.0) is None


class TestConnections:
    @pytest.mark.parametrize("policy", [0, 3, 2**31 - 1, 2**31, 2**32 - 1])
    def test_kept_as_given(self, store: SqlBrokerStore, policy: int) -> None:
        evidence = Evidence(policy, 0, 255, 15, "digest", "text")
        given = Connection(UUID(int=7), SecretBytes(bytes(range(32))), evidence)
        store.add_connections([given])
        assert store.find_connection(UUID(int=7)) == given

    def test_all_or_none(self, store: SqlBrokerStore) -> None:
        evidence = Evidence(0, 0, 0, 0, "", "")
        twice = Connection(UUID(int=7), SecretBytes(bytes(32)), evidence)
        with pytest.raises(SealpodError):
            store.add_connections([twice, twice])
        assert store.find_connection(UUID(int=7)) is None

    def test_signed_words(self) -> None:
        for word in (0, 1, 2**31 - 1, 2**31, 2**32 - 1):
            assert -(2**31) <= columns.signed(word) < 2**31
            assert columns.unsigned(columns.signed(word)) == word


class TestOwner:
    def set(self, engine: Engine, name: str = "key_id1", policy: str | None = None) -> None:
        secrets.set_secret(engine, name, SecretBytes(b"k" * 32), policy=policy)

    def test_secret_as_upstream_keeps_it(self, engine: Engine, path: Path, store: SqlBrokerStore) -> None:
        self.set(engine)
        expected = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="
        assert sql(path, "SELECT secret_id, secret, polid FROM secrets") == [("key_id1", expected, None)]
        assert store.find_secret("key_id1") is not None

    def test_setting_replaces_in_place(self, engine: Engine, path: Path) -> None:
        policies.set_policy(engine, "p", Rule())
        self.set(engine, policy="p")
        (number, polid) = sql(path, "SELECT id, polid FROM secrets")[0]
        assert polid == 1
        secrets.set_secret(engine, "key_id1", SecretBytes(b"other"), policy=None)
        assert sql(path, "SELECT id, secret, polid FROM secrets") == [(number, "b3RoZXI=", None)]

    @pytest.mark.parametrize("name", ["", "x" * 1025, "a\nb", " a", "a ", "\x00", "a\u202eb"])
    def test_ids_that_do_not_fit(self, engine: Engine, name: str) -> None:
        with pytest.raises(UsageError):
            self.set(engine, name)

    @pytest.mark.parametrize("name", ["default/key/key_id1", "kbs:///default/key/1", "ключ", "a b"])
    def test_ids_that_do(self, engine: Engine, name: str, store: SqlBrokerStore) -> None:
        self.set(engine, name)
        assert store.find_secret(name) is not None

    @pytest.mark.parametrize("size", [0, 769, 100_000])
    def test_values_that_do_not_fit(self, engine: Engine, size: int) -> None:
        with pytest.raises(UsageError):
            secrets.set_secret(engine, "x", SecretBytes(bytes(size)), policy=None)

    def test_unknown_names(self, engine: Engine) -> None:
        for act in (
            lambda: self.set(engine, policy="nope"),
            lambda: self.set(engine, policy="7"),
            lambda: secrets.show_secret(engine, "nope"),
            lambda: secrets.delete_secret(engine, "nope"),
            lambda: keysets.set_keyset(engine, "K", ["nope"], policy=None),
            lambda: keysets.show_keyset(engine, "nope"),
            lambda: keysets.delete_keyset(engine, "nope"),
            lambda: policies.show_policy(engine, "nope"),
            lambda: policies.delete_policy(engine, "nope"),
        ):
            with pytest.raises(NotFoundError):
                act()

    def test_what_is_used_stays(self, engine: Engine) -> None:
        policies.set_policy(engine, "p", Rule())
        self.set(engine, policy="p")
        keysets.set_keyset(engine, "K", ["key_id1", "key_id1"], policy="p")
        assert keysets.show_keyset(engine, "K") == keysets.KeysetInfo("K", ("key_id1",), "p")
        with pytest.raises(ConflictError, match="in keyset K"):
            secrets.delete_secret(engine, "key_id1")
        with pytest.raises(ConflictError, match="secret key_id1, keyset K"):
            policies.delete_policy(engine, "p")
        keysets.delete_keyset(engine, "K")
        secrets.delete_secret(engine, "key_id1")
        policies.delete_policy(engine, "p")
        assert secrets.list_secrets(engine) == ()
        assert keysets.list_keysets(engine) == ()
        assert policies.list_policies(engine) == ()

    def test_replacing_a_policy_keeps_what_refers_to_it(self, engine: Engine, store: SqlBrokerStore) -> None:
        number = policies.set_policy(engine, "p", Rule())
        self.set(engine, policy="p")
        strict = Rule(("d",), (3,), (0, 24), (15,))
        assert policies.set_policy(engine, "p", strict) == number
        found = store.find_secret("key_id1")
        assert found is not None
        assert found.rule == strict

    def test_setting_a_withdrawn_policy_makes_it_valid(self, engine: Engine, path: Path) -> None:
        policies.set_policy(engine, "p", Rule())
        sql(path, "UPDATE policy SET valid=0, delete_date=now()")
        assert not policies.show_policy(engine, "p")[0].valid
        policies.set_policy(engine, "p", Rule())
        assert policies.show_policy(engine, "p")[0].valid

    def test_a_policy_whose_row_was_deleted_by_hand(self, engine: Engine, path: Path) -> None:
        number = policies.set_policy(engine, "p", Rule())
        self.set(engine, policy="p")
        sql(path, "DELETE FROM policy")
        assert secrets.show_secret(engine, "key_id1")[0].policy == f"{number} (missing)"
        with pytest.raises(NotFoundError):
            policies.show_policy(engine, "p")
        assert policies.set_policy(engine, "p", Rule()) == number

    def test_nameless_policies_go_by_number(self, engine: Engine, path: Path) -> None:
        sql(path, "REPLACE INTO policy VALUES (10,'[]','[]',0,0,'[]',now(),NULL,1)")
        assert policies.list_policies(engine)[0].name == "10"
        self.set(engine, policy="10")
        assert secrets.list_secrets(engine)[0].policy == "10"
        assert policies.show_policy(engine, "10")[1] == ("secret key_id1",)

    def test_a_policy_cannot_be_called_a_number(self, engine: Engine) -> None:
        with pytest.raises(UsageError):
            policies.set_policy(engine, "10", Rule())

    def test_rows_that_cannot_be_read_are_listed(self, engine: Engine, path: Path) -> None:
        sql(path, "INSERT INTO secrets VALUES (1,'s','not base64',9)")
        sql(path, "INSERT INTO keysets VALUES (1,'k','[',NULL)")
        sql(path, "INSERT INTO policy VALUES (1,'[','[]',0,0,'[]',NULL,NULL,1)")
        assert secrets.list_secrets(engine) == (secrets.SecretInfo("s", None, "9 (missing)"),)
        assert keysets.list_keysets(engine) == (keysets.KeysetInfo("k", None, None),)
        assert policies.list_policies(engine) == (policies.PolicyInfo("1", 1, None, True),)
        secrets.delete_secret(engine, "s")
