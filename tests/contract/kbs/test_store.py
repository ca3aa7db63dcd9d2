# SPDX-License-Identifier: Apache-2.0
"""The store on every database: simple-kbs' tables and statements, launches, connections, owner's verbs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from databases import TestDatabase

from sealpod.errors import ConflictError, DecodeError, NotFoundError, RefusedError, SealpodError, UsageError
from sealpod.kbs.core.audit import Decision
from sealpod.kbs.core.evidence import Evidence
from sealpod.kbs.core.limits import Limits
from sealpod.kbs.core.policy import Rule
from sealpod.kbs.core.records import Change, Connection, Launch, Platform
from sealpod.kbs.store import (
    connections,
    keysets,
    launches,
    policies,
    reports,
    resources,
    retention,
    sealed,
    secrets,
)
from sealpod.kbs.store.broker import SqlBrokerStore
from sealpod.kbs.store.database import Database, open_database
from sealpod.kbs.store.keks import KekSources
from sealpod.secret import SecretBytes

KEY_B64 = "RcHGava52DPvj1uoIk/NVDYlwxi0A6yyIZ8ilhEX3X4="
# Columns in simple-kbs' order.
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
HOSTILE = [
    "",
    "key_id",
    "key_id1 ",
    "KEY_ID1",
    "key_id1' --",
    "' OR '1'='1",
    "key_id1'; DROP TABLE secrets; --",
    '" OR ""="',
    "%",
    "key_id_",
    "key\\_id1",
    "key_id1\\",
    "key_id1\0",
    "\0",
    "key_id1/*",
    "{0}",
    "%(name)s",
    ":name",
    "\U0001f512",
    "é" * 1024,
]


@pytest.fixture(scope="module")
def opened(database: TestDatabase) -> Iterator[Database]:
    with open_database(database.url, keks=KekSources(database.kek)) as db:
        yield db


@pytest.fixture
def db(opened: Database, database: TestDatabase) -> Iterator[Database]:
    yield opened
    database.empty()


@pytest.fixture
def store(db: Database) -> SqlBrokerStore:
    return SqlBrokerStore(db)


class TestUpstreamsTables:
    @pytest.mark.parametrize("table", UPSTREAM)
    def test_order_of_columns(self, db: Database, table: str) -> None:
        with db.engine.connect() as connection:
            found = connection.exec_driver_sql(f"SELECT * FROM {table}")
            assert list(found.keys()) == UPSTREAM[table].split()

    def test_the_tutorials_statements(self, store: SqlBrokerStore, database: TestDatabase) -> None:
        database.sql(
            f"REPLACE INTO secrets VALUES (10,'key_id1','{KEY_B64}',10)",
            """REPLACE INTO keysets VALUES (10,'KEYSET-1','["key_id1"]',10)""",
            """REPLACE INTO policy VALUES (10,'["<digest>"]','[]',0,0,'[]',now(),NULL,1)""",
        )
        secret, keyset = store.find_secret("key_id1"), store.find_keyset("KEYSET-1")
        assert secret is not None
        assert keyset is not None
        assert secret.value.reveal() == KEY_B64.encode()
        assert keyset.members == ("key_id1",)
        assert secret.rule == keyset.rule == Rule(allowed_digests=("<digest>",))

    def test_they_take_effect_at_once(self, store: SqlBrokerStore, database: TestDatabase) -> None:
        assert store.find_secret("key_id1") is None
        database.sql(f"REPLACE INTO secrets VALUES (10,'key_id1','{KEY_B64}',NULL)")
        first = store.find_secret("key_id1")
        assert first is not None
        assert first.rule is None
        database.sql(f"REPLACE INTO secrets VALUES (10,'key_id1','{KEY_B64}',10)")
        with pytest.raises(RefusedError, match="does not exist"):
            store.find_secret("key_id1")

    def test_a_sealed_secret_gives_way_to_a_plain_one(
        self, db: Database, store: SqlBrokerStore, database: TestDatabase
    ) -> None:
        secrets.set_secret(db, "key_id1", SecretBytes(b"sealed"), policy=None)
        (number,) = database.query("SELECT id FROM secrets")
        database.sql(f"REPLACE INTO secrets VALUES ({number[0]},'key_id1','{KEY_B64}',NULL)")
        found = store.find_secret("key_id1")
        assert found is not None
        assert found.value == SecretBytes(KEY_B64.encode())

    @pytest.mark.parametrize("text", HOSTILE)
    def test_an_id_is_exactly_itself(
        self, db: Database, store: SqlBrokerStore, database: TestDatabase, text: str
    ) -> None:
        database.sql(
            f"REPLACE INTO secrets VALUES (10,'key_id1','{KEY_B64}',NULL)",
            "REPLACE INTO keysets VALUES (10,'key_id1','[]',NULL)",
            "REPLACE INTO resources VALUES (10,'key_id1','key_id1','path',NULL)",
            f"REPLACE INTO report_keypair VALUES (10,'key_id1','{KEY_B64}',NULL)",
        )
        assert store.find_secret(text) is None
        assert store.find_keyset(text) is None
        assert store.find_resource(text) is None
        assert store.find_report_key(text) is None
        assert store.find_secret("key_id1") is not None
        for act in (
            lambda: secrets.delete_secret(db, text),
            lambda: keysets.delete_keyset(db, text),
            lambda: resources.delete_resource(db, text),
            lambda: reports.delete_report_key(db, text),
            lambda: policies.delete_policy(db, text),
            lambda: connections.revoke_connection(db, text),
            lambda: launches.delete_launch(db, text),
        ):
            with pytest.raises(NotFoundError):
                act()
        assert len(database.query("SELECT * FROM secrets")) == 1

    @pytest.mark.parametrize("members", ["NULL", "''", "'['", "'{}'", "'[1]'", "'\"x\"'"])
    def test_a_keyset_that_cannot_be_read(
        self, store: SqlBrokerStore, database: TestDatabase, members: str
    ) -> None:
        database.sql(f"REPLACE INTO keysets VALUES (10,'K',{members},NULL)")
        with pytest.raises(DecodeError):
            store.find_keyset("K")

    def test_columns_without_a_value(self, store: SqlBrokerStore, database: TestDatabase) -> None:
        database.sql(
            "INSERT INTO secrets VALUES (10,NULL,NULL,NULL)",
            "INSERT INTO secrets VALUES (11,'empty',NULL,NULL)",
            "INSERT INTO resources VALUES (10,'r','t',NULL,NULL)",
        )
        assert store.find_secret("empty") is None
        assert store.find_resource("t") is None

    def test_a_resource_and_its_policy_are_of_one_row(
        self, store: SqlBrokerStore, database: TestDatabase
    ) -> None:
        database.sql(
            "REPLACE INTO policy VALUES (10,'[\"d\"]','[]',0,0,'[]',NULL,NULL,1)",
            "REPLACE INTO resources VALUES (7,'second','Policy','second.json',NULL)",
            "REPLACE INTO resources VALUES (5,'first','Policy','first.json',10)",
        )
        found = store.find_resource("Policy")
        assert found is not None
        assert (found.id, found.path) == ("first", "first.json")
        assert found.rule == Rule(("d",))


class TestValidityPeriod:
    """A policy counts while it is marked valid, has begun and has not ended, by the database's clock."""

    @pytest.mark.parametrize(
        ("created", "deleted", "valid", "counts"),
        [
            ("now()", "NULL", "1", True),
            ("NULL", "NULL", "1", True),
            ("'2001-01-01 00:00:00'", "NULL", "1", True),
            ("'2001-01-01 00:00:00'", "'2999-01-01 00:00:00'", "1", True),
            ("'2001-01-01'", "'2999-01-01'", "1", True),
            ("now()", "NULL", "0", False),
            ("now()", "NULL", "NULL", False),
            ("now()", "NULL", "2", False),
            ("now()", "now()", "1", False),
            ("now()", "'2001-01-01 00:00:00'", "1", False),
            ("'2999-01-01 00:00:00'", "NULL", "1", False),
            ("NULL", "'2001-01-01'", "1", False),
        ],
    )
    def test_policies(
        self,
        db: Database,
        store: SqlBrokerStore,
        database: TestDatabase,
        created: str,
        deleted: str,
        valid: str,
        counts: bool,
    ) -> None:
        database.sql(
            f"REPLACE INTO policy VALUES (10,'[]','[]',0,0,'[]',{created},{deleted},{valid})",
            f"REPLACE INTO secrets VALUES (10,'key_id1','{KEY_B64}',10)",
        )
        assert policies.show_policy(db, "10")[0].valid is counts
        if counts:
            found = store.find_secret("key_id1")
            assert found is not None
            assert found.rule == Rule()
        else:
            with pytest.raises(RefusedError) as caught:
                store.find_secret("key_id1")
            assert caught.value.code == "policy.unavailable"

    def test_withdrawing_and_setting_again(
        self, db: Database, store: SqlBrokerStore, database: TestDatabase
    ) -> None:
        policies.set_policy(db, "p", Rule())
        secrets.set_secret(db, "key_id1", SecretBytes(b"k"), policy="p")
        policies.withdraw_policy(db, "p")
        with pytest.raises(RefusedError):
            store.find_secret("key_id1")
        policies.set_policy(db, "p", Rule())
        assert store.find_secret("key_id1") is not None
        database.sql("UPDATE policy SET create_date='2999-01-01 00:00:00'")
        with pytest.raises(RefusedError):
            store.find_secret("key_id1")
        policies.set_policy(db, "p", Rule())
        assert store.find_secret("key_id1") is not None
        with pytest.raises(NotFoundError):
            policies.withdraw_policy(db, "nope")


PLATFORM = Platform("model", "a" * 64, "b" * 64, "c" * 64)
LIMITS = Limits()


def launch(number: int | UUID = 1, *, created: float = 100.0, expires: float = 200.0) -> Launch:
    name = number if isinstance(number, UUID) else UUID(int=number)
    return Launch(name, 3, b"sealpod:1:00000000:AAAA", PLATFORM, created, expires)


def opens(store: SqlBrokerStore, one: Launch, *, limits: Limits = LIMITS) -> None:
    store.settle(Change(Decision("GetBundle"), opens=one), now=one.created_at, limits=limits)


def spends(store: SqlBrokerStore, name: UUID, *, now: float = 150.0) -> bool:
    try:
        store.settle(Change(Decision("GetSecret"), spends=name), now=now, limits=LIMITS)
    except NotFoundError:
        return False
    return True


def begins(store: SqlBrokerStore, *made: Connection, now: float = 100.0) -> None:
    store.settle(Change(Decision("GetSecret"), connections=made), now=now, limits=LIMITS)


def uses(store: SqlBrokerStore, one: Connection) -> bool:
    decision = Decision("GetOnlineSecret", "granted")
    return store.settle(Change(decision, uses=one.client_id), now=100.0, limits=LIMITS).number > 0


def guest(name: UUID | None = None, policy: int = 3) -> Connection:
    evidence = Evidence(policy, 0, 255, 15, "digest", "text")
    return Connection(name or uuid4(), SecretBytes(bytes(range(32))), evidence, PLATFORM, 100.0)


class TestLaunches:
    def test_kept_as_given(self, store: SqlBrokerStore) -> None:
        given = Launch(UUID(int=1), 2**32 - 1, bytes(range(33, 120)), PLATFORM, 100.5, 200.5)
        opens(store, given)
        assert store.find_launch(given.id, now=200.0) == given

    def test_unknown_and_expired(self, store: SqlBrokerStore) -> None:
        opens(store, launch())
        assert store.find_launch(UUID(int=2), now=150.0) is None
        assert store.find_launch(UUID(int=1), now=200.0) is None
        assert not spends(store, UUID(int=1), now=200.0)

    def test_spent_once(self, store: SqlBrokerStore) -> None:
        opens(store, launch())
        assert spends(store, UUID(int=1))
        assert not spends(store, UUID(int=1))
        assert store.find_launch(UUID(int=1), now=150.0) is None

    def test_a_race_has_one_winner(self, store: SqlBrokerStore, database: TestDatabase) -> None:
        """Three replicas, each with its own connections, two threads each."""
        names = [uuid4() for _ in range(10)]
        for name in names:
            opens(store, launch(name))
        opened = [open_database(database.url, keks=KekSources(database.kek)) for _ in range(3)]
        replicas = [SqlBrokerStore(one) for one in opened] * 2
        barrier = threading.Barrier(len(replicas))

        def race(replica: SqlBrokerStore) -> list[UUID]:
            won = []
            for name in names:
                barrier.wait(timeout=30)
                if spends(replica, name):
                    won.append(name)
            return won

        with ThreadPoolExecutor(len(replicas)) as pool:
            wins = [name for won in pool.map(race, replicas) for name in won]
        for one in opened:
            one.close()
        assert sorted(wins, key=str) == sorted(names, key=str)

    def test_many_at_once(self, store: SqlBrokerStore, database: TestDatabase) -> None:
        """Opening and spending by many threads: no deadlock, nothing lost, one chain."""
        opened = [open_database(database.url, keks=KekSources(database.kek)) for _ in range(2)]
        replicas = [SqlBrokerStore(one) for one in opened]

        def work(number: int) -> bool:
            here, there = replicas[number % 2], replicas[1 - number % 2]
            name = uuid4()
            opens(here, launch(name))
            begins(there, guest())
            return spends(there, name)

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(60)))
        for one in opened:
            one.close()
        assert database.query("SELECT count(*) FROM sealpod_launches") == [(0,)]
        assert database.query("SELECT count(*), max(seq) FROM sealpod_audit") == [(180, 180)]
        assert database.query("SELECT count(*) FROM conn_bundle") == [(60,)]

    def test_listed_and_ended(self, db: Database, store: SqlBrokerStore) -> None:
        opens(store, launch(1, created=100.0))
        opens(store, launch(2, created=110.0, expires=300.0))
        found = launches.list_launches(db, now=250.0)
        assert [(one.id, one.expired) for one in found] == [
            (str(UUID(int=2)), False),
            (str(UUID(int=1)), True),
        ]
        assert launches.show_launch(db, str(UUID(int=2)), now=250.0) == found[0]
        assert "sealed" not in repr(found)
        launches.delete_launch(db, str(UUID(int=2)))
        assert not spends(store, UUID(int=2))
        with pytest.raises(NotFoundError):
            launches.show_launch(db, str(UUID(int=2)), now=0.0)


class TestConnections:
    @pytest.mark.parametrize("policy", [0, 3, 2**31 - 1, 2**31, 2**32 - 1])
    def test_kept_as_given(self, store: SqlBrokerStore, database: TestDatabase, policy: int) -> None:
        given = guest(UUID(int=7), policy)
        begins(store, given)
        assert store.find_connection(UUID(int=7)) == given
        ((column, key),) = database.query("SELECT policy, symkey FROM conn_bundle")
        assert column == (policy if policy < 2**31 else policy - 2**32)
        assert key.startswith("sealpod:1:")

    def test_all_or_none(self, store: SqlBrokerStore) -> None:
        twice = guest(UUID(int=7))
        with pytest.raises(SealpodError):
            begins(store, twice, twice)
        assert store.find_connection(UUID(int=7)) is None

    def test_what_simple_kbs_made_is_read_and_sealed(
        self, db: Database, store: SqlBrokerStore, database: TestDatabase
    ) -> None:
        name = UUID(int=8)
        database.sql(
            f"INSERT INTO conn_bundle VALUES ('{name}',NULL,-2,0,24,15,'old','d','{KEY_B64}',now(),NULL)"
        )
        plain = store.find_connection(name)
        assert plain is not None
        with pytest.raises(RefusedError) as caught:
            SqlBrokerStore(db, plain_connections=False).find_connection(name)
        assert caught.value.code == "connection.plain"
        assert dict(sealed.seal_plain(db).written) == {"connection": 1}
        found = SqlBrokerStore(db, plain_connections=False).find_connection(name)
        assert found is not None
        assert found == plain
        assert found.evidence == Evidence(2**32 - 2, 0, 24, 15, "d", "old")
        assert found.platform is None
        # Its first use makes a row of ours beside it, and changes nothing of what it stands for.
        assert uses(store, found)
        again = store.find_connection(name)
        assert again is not None
        assert again.created_at == 100.0
        sealed.unseal(db)
        assert database.query("SELECT symkey FROM conn_bundle") == [(KEY_B64,)]

    def test_revoked(self, db: Database, store: SqlBrokerStore) -> None:
        kept, revoked = replace(guest(), created_at=101.0), guest()
        begins(store, kept, revoked)
        connections.revoke_connection(db, str(revoked.client_id))
        connections.revoke_connection(db, str(revoked.client_id))
        assert store.find_connection(revoked.client_id) is None
        assert store.find_connection(kept.client_id) is not None
        assert [one.id for one in connections.list_connections(db, active=True)] == [str(kept.client_id)]
        shown = connections.show_connection(db, str(revoked.client_id))
        assert not shown.active
        assert (shown.policy, shown.firmware, shown.root, shown.messages) == (3, "0.255.15", "model", 0)
        connections.delete_connection(db, str(revoked.client_id))
        assert len(connections.list_connections(db)) == 1
        for act in (connections.show_connection, connections.delete_connection):
            with pytest.raises(NotFoundError):
                act(db, str(revoked.client_id))

    def test_revoked_while_a_guest_was_being_answered(self, db: Database, store: SqlBrokerStore) -> None:
        """No release stands in the log behind its revocation, whenever the guest's call began."""
        for end in (connections.revoke_connection, connections.delete_connection):
            one = guest()
            begins(store, one)
            assert uses(store, one)
            assert store.find_connection(one.client_id) is not None, "the guest's call has begun"
            end(db, str(one.client_id))
            with pytest.raises(NotFoundError) as caught:
                uses(store, one)
            assert caught.value.code == "connection.unknown"
            assert caught.value.message.startswith("Connection not found: ")

    def test_an_end_to_come(self, store: SqlBrokerStore, database: TestDatabase) -> None:
        one = guest()
        begins(store, one)
        database.sql("UPDATE conn_bundle SET delete_date='2999-01-01 00:00:00'")
        assert store.find_connection(one.client_id) is not None


class TestRetention:
    def test_what_is_old_goes(self, db: Database, store: SqlBrokerStore, database: TestDatabase) -> None:
        opens(store, launch(1, expires=200.0))
        opens(store, launch(2, expires=1000.0))
        old, young = guest(), guest()
        begins(store, old, now=100.0)
        # Its row says when it began; the broker's own clock is what counts.
        begins(store, Connection(young.client_id, young.key, young.evidence, PLATFORM, 900.0), now=900.0)
        template = "INSERT INTO conn_bundle VALUES ('{}',NULL,0,0,0,0,'','','{}',{},NULL)"
        database.sql(
            template.format("ancient", KEY_B64, "'2001-01-01 00:00:00'"),
            template.format("recent", KEY_B64, "now()"),
            template.format("undated", KEY_B64, "NULL"),
        )
        assert retention.purge(db, now=950.0, connection_ttl=None) == retention.Purged(1, 0)
        assert retention.purge(db, now=950.0, connection_ttl=500.0) == retention.Purged(0, 2)
        left = {row[0] for row in database.query("SELECT id FROM conn_bundle")}
        assert left == {str(young.client_id), "recent", "undated"}
        assert database.query("SELECT client_id FROM sealpod_connections") == [(str(young.client_id),)]
        assert retention.purge(db, now=950.0, connection_ttl=500.0) == retention.Purged(0, 0)

    def test_more_than_a_batch(
        self, db: Database, store: SqlBrokerStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retention, "BATCH", 3)
        begins(store, *(guest() for _ in range(7)), now=100.0)
        assert retention.purge(db, now=10_000.0, connection_ttl=60.0) == retention.Purged(0, 7)


class TestOwner:
    def set(self, db: Database, name: str = "key_id1", policy: str | None = None) -> None:
        secrets.set_secret(db, name, SecretBytes(b"k" * 32), policy=policy)

    def test_setting_replaces_in_place(
        self, db: Database, store: SqlBrokerStore, database: TestDatabase
    ) -> None:
        number = policies.set_policy(db, "p", Rule())
        self.set(db, policy="p")
        ((before, polid),) = database.query("SELECT id, polid FROM secrets")
        assert polid == number
        secrets.set_secret(db, "key_id1", SecretBytes(b"other"), policy=None)
        assert database.query("SELECT id, polid FROM secrets") == [(before, None)]
        found = store.find_secret("key_id1")
        assert found is not None
        assert found.value == SecretBytes(b"b3RoZXI=")
        assert secrets.reveal_secret(db, "key_id1") == SecretBytes(b"b3RoZXI=")
        assert secrets.show_secret(db, "key_id1") == secrets.SecretInfo("key_id1", 5, None, True)

    @pytest.mark.parametrize("name", ["", "x" * 1025, "a\nb", " a", "a ", "\x00", "a\u202eb"])
    def test_ids_that_do_not_fit(self, db: Database, name: str) -> None:
        with pytest.raises(UsageError):
            self.set(db, name)

    @pytest.mark.parametrize(
        "name",
        ["default/key/key_id1", "kbs:///default/key/1", "ключ", "a b", "x' OR '1'='1", "%s", "y" * 1024],
    )
    def test_ids_that_do(self, db: Database, name: str, store: SqlBrokerStore) -> None:
        self.set(db, name)
        assert store.find_secret(name) is not None
        secrets.delete_secret(db, name)
        assert store.find_secret(name) is None

    def test_ids_that_differ_by_case(self, db: Database, store: SqlBrokerStore) -> None:
        secrets.set_secret(db, "key", SecretBytes(b"one"), policy=None)
        secrets.set_secret(db, "KEY", SecretBytes(b"two"), policy=None)
        values = [store.find_secret(name) for name in ("key", "KEY")]
        assert [one.value.reveal() for one in values if one is not None] == [b"b25l", b"dHdv"]
        secrets.delete_secret(db, "KEY")
        assert store.find_secret("key") is not None

    @pytest.mark.parametrize("size", [0, 677, 100_000])
    def test_values_that_do_not_fit(self, db: Database, size: int) -> None:
        with pytest.raises(UsageError) as caught:
            secrets.set_secret(db, "x", SecretBytes(bytes(size)), policy=None)
        assert "676" in caught.value.message

    def test_the_largest_value(self, db: Database, store: SqlBrokerStore) -> None:
        secrets.set_secret(db, "x", SecretBytes(bytes(676)), policy=None)
        found = store.find_secret("x")
        assert found is not None
        assert found.value == SecretBytes(b"A" * 900 + b"AA==")

    def test_unknown_names(self, db: Database) -> None:
        for act in (
            lambda: self.set(db, policy="nope"),
            lambda: self.set(db, policy="7"),
            lambda: secrets.show_secret(db, "nope"),
            lambda: secrets.reveal_secret(db, "nope"),
            lambda: secrets.delete_secret(db, "nope"),
            lambda: keysets.set_keyset(db, "K", ["nope"], policy=None),
            lambda: keysets.show_keyset(db, "nope"),
            lambda: keysets.delete_keyset(db, "nope"),
            lambda: policies.show_policy(db, "nope"),
            lambda: policies.delete_policy(db, "nope"),
            lambda: resources.show_resource(db, "nope"),
            lambda: resources.delete_resource(db, "nope"),
            lambda: reports.show_report_key(db, "nope"),
            lambda: reports.delete_report_key(db, "nope"),
        ):
            with pytest.raises(NotFoundError):
                act()

    def test_what_is_used_stays(self, db: Database) -> None:
        policies.set_policy(db, "p", Rule())
        self.set(db, policy="p")
        keysets.set_keyset(db, "K", ["key_id1", "key_id1"], policy="p")
        assert keysets.show_keyset(db, "K") == keysets.KeysetInfo("K", ("key_id1",), "p")
        with pytest.raises(ConflictError, match="in keyset K"):
            secrets.delete_secret(db, "key_id1")
        with pytest.raises(ConflictError, match="secret key_id1, keyset K"):
            policies.delete_policy(db, "p")
        keysets.delete_keyset(db, "K")
        secrets.delete_secret(db, "key_id1")
        policies.delete_policy(db, "p")
        assert secrets.list_secrets(db) == ()
        assert keysets.list_keysets(db) == ()
        assert policies.list_policies(db) == ()

    def test_replacing_a_policy_keeps_what_refers_to_it(self, db: Database, store: SqlBrokerStore) -> None:
        number = policies.set_policy(db, "p", Rule())
        self.set(db, policy="p")
        strict = Rule(("d",), (3,), (0, 24), (15,))
        assert policies.set_policy(db, "p", strict) == number
        found = store.find_secret("key_id1")
        assert found is not None
        assert found.rule == strict

    def test_a_policy_whose_row_was_deleted_by_hand(self, db: Database, database: TestDatabase) -> None:
        number = policies.set_policy(db, "p", Rule())
        self.set(db, policy="p")
        database.sql("DELETE FROM policy")
        assert secrets.show_secret(db, "key_id1").policy == f"{number} (missing)"
        with pytest.raises(NotFoundError):
            policies.show_policy(db, "p")
        assert policies.set_policy(db, "p", Rule()) == number

    def test_nameless_policies_go_by_number(self, db: Database, database: TestDatabase) -> None:
        database.sql("REPLACE INTO policy VALUES (10,'[]','[]',0,0,'[]',now(),NULL,1)")
        assert policies.list_policies(db)[0].name == "10"
        self.set(db, policy="10")
        assert secrets.list_secrets(db)[0].policy == "10"
        assert policies.show_policy(db, "10")[1] == ("secret key_id1",)

    def test_numbers_go_on_after_statements_that_gave_one(self, db: Database, database: TestDatabase) -> None:
        """PostgreSQL's counters do not notice such a statement."""
        for number in (1, 2, 3, 39):
            database.sql(
                f"REPLACE INTO policy VALUES ({number},'[]','[]',0,0,'[]',now(),NULL,1)",
                f"REPLACE INTO secrets VALUES ({number},'s{number}','{KEY_B64}',NULL)",
            )
        self.set(db, "new")
        policies.set_policy(db, "p", Rule())
        policies.set_policy(db, "q", Rule())
        assert len(secrets.list_secrets(db)) == 5
        assert len(policies.list_policies(db)) == 6

    def test_a_policy_cannot_be_called_a_number(self, db: Database) -> None:
        with pytest.raises(UsageError):
            policies.set_policy(db, "10", Rule())

    def test_rows_that_cannot_be_read_are_listed(self, db: Database, database: TestDatabase) -> None:
        database.sql(
            "INSERT INTO secrets VALUES (1,'s','not base64',9)",
            "INSERT INTO secrets VALUES (2,'t','sealpod:1:00000000:AAAA',NULL)",
            "INSERT INTO keysets VALUES (1,'k','[',NULL)",
            "INSERT INTO policy VALUES (1,'[','[]',0,0,'[]',NULL,NULL,1)",
            "INSERT INTO report_keypair VALUES (1,'r','not a key',NULL)",
        )
        assert secrets.list_secrets(db) == (
            secrets.SecretInfo("s", None, "9 (missing)"),
            secrets.SecretInfo("t", None, None, True),
        )
        assert keysets.list_keysets(db) == (keysets.KeysetInfo("k", None, None),)
        assert policies.list_policies(db) == (policies.PolicyInfo("1", 1, None, True),)
        assert reports.list_report_keys(db) == (reports.ReportKeyInfo("r", None, None, False),)
        secrets.delete_secret(db, "s")

    def test_resources(self, db: Database, store: SqlBrokerStore) -> None:
        policies.set_policy(db, "p", Rule(("d",)))
        resources.set_resource(db, "one", kind="Policy", path="a/policy.json", policy="p")
        resources.set_resource(db, "two", kind="Policy", path="b.json", policy=None)
        assert [(one.id, one.first) for one in resources.list_resources(db)] == [
            ("one", True),
            ("two", False),
        ]
        found = store.find_resource("Policy")
        assert found is not None
        assert (found.id, found.path, found.rule) == ("one", "a/policy.json", Rule(("d",)))
        with pytest.raises(ConflictError):
            policies.delete_policy(db, "p")
        resources.delete_resource(db, "one")
        assert resources.show_resource(db, "two").first

    @pytest.mark.parametrize("path", ["", "/etc/passwd", "../key", "a/../../key", "a\0b", "x" * 1025, " a"])
    def test_paths_that_lead_elsewhere(self, db: Database, path: str) -> None:
        with pytest.raises(UsageError):
            resources.set_resource(db, "one", kind="Policy", path=path, policy=None)

    def test_report_keys(self, db: Database, store: SqlBrokerStore, database: TestDatabase) -> None:
        made = reports.generate_report_key(db, "r", policy=None)
        assert made.public is not None
        assert made.public.startswith("-----BEGIN PUBLIC KEY-----")
        key = ec.generate_private_key(ec.SECP256R1())
        for encoding in (Encoding.PEM, Encoding.DER):
            raw = key.private_bytes(encoding, PrivateFormat.PKCS8, NoEncryption())
            shown = reports.set_report_key(db, "r", SecretBytes(raw), policy=None)
            assert shown.public != made.public
            assert shown.sealed
        ((column,),) = database.query("SELECT keypair FROM report_keypair")
        assert column.startswith("sealpod:1:")
        assert store.find_report_key("r") is not None
        reports.delete_report_key(db, "r")
        assert reports.list_report_keys(db) == ()

    def test_what_is_no_report_key(self, db: Database) -> None:
        others = (
            ec.generate_private_key(ec.SECP384R1()),
            rsa.generate_private_key(65537, 2048),
        )
        texts = [b"", b"x", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
        texts += [key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) for key in others]
        for text in texts:
            with pytest.raises(UsageError) as caught:
                reports.set_report_key(db, "r", SecretBytes(text), policy=None)
            assert caught.value.code == "report-key.syntax"
