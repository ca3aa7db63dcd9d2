# SPDX-License-Identifier: Apache-2.0
"""Databases that simple-kbs made: adopted with nothing lost, and given back as they were.

The tables are written here from the facts about simple-kbs' three scripts: names, order and types of columns,
keys, character sets, and where the counters of MySQL begin.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from databases import UPSTREAM_TABLES, TestDatabase
from sqlalchemy import inspect

from sealpod.errors import ConflictError, NotFoundError, SealpodError, VerificationError
from sealpod.kbs.core.audit import Decision
from sealpod.kbs.core.limits import Limits
from sealpod.kbs.core.policy import Rule
from sealpod.kbs.core.records import Change
from sealpod.kbs.store import layout, migrate, policies, schema, secrets
from sealpod.kbs.store.broker import SqlBrokerStore
from sealpod.kbs.store.database import Database, open_database
from sealpod.kbs.store.engine import connect_engine
from sealpod.kbs.store.keks import KekSources
from sealpod.kbs.store.layout import Layout, State, state_of
from sealpod.kbs.store.sealed import seal_plain
from sealpod.secret import SecretBytes

KEY_B64 = "RcHGava52DPvj1uoIk/NVDYlwxi0A6yyIZ8ilhEX3X4="
CLIENT = "3f2b8a9e-8f0d-4f0e-9d1c-2f6a1b7c9d10"

_MYSQL = " ENGINE=InnoDB{} DEFAULT CHARSET=utf8"
MARIADB = (
    "CREATE TABLE `conn_bundle` (`id` varchar(512) NOT NULL, `sev_version` int(11) DEFAULT NULL, "
    "`policy` int(11) DEFAULT NULL, `fw_api_major` int(11) DEFAULT NULL, "
    "`fw_api_minor` int(11) DEFAULT NULL, "
    "`fw_build_id` int(11) DEFAULT NULL, `launch_description` varchar(512) DEFAULT NULL, "
    "`fw_digest` varchar(512) DEFAULT NULL, `symkey` varchar(512) DEFAULT NULL, "
    "`create_date` datetime DEFAULT NULL, `delete_date` datetime DEFAULT NULL, PRIMARY KEY (`id`))"
    + _MYSQL.format(""),
    "CREATE TABLE `policy` (`id` int(11) NOT NULL AUTO_INCREMENT, "
    "`allowed_digests` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL, "
    "`allowed_policies` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL, "
    "`min_fw_api_major` int(11) DEFAULT NULL, `min_fw_api_minor` int(11) DEFAULT NULL, "
    "`allowed_build_ids` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL, "
    "`create_date` datetime DEFAULT NULL, `delete_date` datetime DEFAULT NULL, "
    "`valid` tinyint(1) DEFAULT NULL, PRIMARY KEY (`id`))" + _MYSQL.format(" AUTO_INCREMENT=3"),
    "CREATE TABLE `keysets` (`id` int(11) NOT NULL AUTO_INCREMENT, `keysetid` varchar(50) NOT NULL, "
    "`kskeys` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL, `polid` int(11) DEFAULT NULL, "
    "PRIMARY KEY (`id`), UNIQUE KEY `keysetid` (`keysetid`))" + _MYSQL.format(" AUTO_INCREMENT=2"),
    "CREATE TABLE `secrets` (`id` int(11) NOT NULL AUTO_INCREMENT, `secret_id` varchar(1024) DEFAULT NULL, "
    "`secret` varchar(1024) DEFAULT NULL, `polid` int(11) DEFAULT NULL, PRIMARY KEY (`id`), "
    "UNIQUE KEY `secret_id` (`secret_id`))" + _MYSQL.format(" AUTO_INCREMENT=3"),
    "CREATE TABLE `report_keypair` (`id` int(11) NOT NULL AUTO_INCREMENT, "
    "`key_id` varchar(1024) DEFAULT NULL, "
    "`keypair` varchar(1024) DEFAULT NULL, `polid` int(11) DEFAULT NULL, PRIMARY KEY (`id`), "
    "UNIQUE KEY `key_id` (`key_id`))" + _MYSQL.format(" AUTO_INCREMENT=3"),
    "CREATE TABLE `resources` (`id` int(11) NOT NULL AUTO_INCREMENT, "
    "`resource_id` varchar(1024) DEFAULT NULL, "
    "`resource_type` varchar(1024) DEFAULT NULL, `resource_path` varchar(1024) DEFAULT NULL, "
    "`polid` int(11) DEFAULT NULL, PRIMARY KEY (`id`), UNIQUE KEY `resource_id` (`resource_id`))"
    + _MYSQL.format(" AUTO_INCREMENT=3"),
)
POSTGRESQL = (
    (
        "CREATE TABLE conn_bundle (id varchar(512) NOT NULL, sev_version INT, policy INT, fw_api_major INT, "
        "fw_api_minor INT, fw_build_id INT, launch_description varchar(512), fw_digest varchar(512), "
        "symkey varchar(512), create_date TIMESTAMP, delete_date TIMESTAMP, PRIMARY KEY (id))"
    ),
    (
        "CREATE TABLE policy (id SERIAL PRIMARY KEY, allowed_digests TEXT, allowed_policies TEXT, "
        "min_fw_api_major INT, min_fw_api_minor INT, allowed_build_ids TEXT, create_date TIMESTAMP, "
        "delete_date TIMESTAMP, valid SMALLINT)"
    ),
    (
        "CREATE TABLE keysets (id SERIAL PRIMARY KEY, keysetid varchar(50) NOT NULL UNIQUE, kskeys TEXT, "
        "polid INT)"
    ),
    (
        "CREATE TABLE secrets (id SERIAL PRIMARY KEY, secret_id varchar(1024) UNIQUE, secret varchar(1024), "
        "polid BIGINT)"
    ),
    (
        "CREATE TABLE report_keypair (id SERIAL PRIMARY KEY, key_id varchar(1024) UNIQUE, "
        "keypair varchar(1024), "
        "polid BIGINT)"
    ),
    (
        "CREATE TABLE resources (id SERIAL PRIMARY KEY, resource_id varchar(1024) UNIQUE, "
        "resource_type varchar(1024), resource_path varchar(1024), polid BIGINT)"
    ),
)
SQLITE = (
    (
        "CREATE TABLE conn_bundle (id varchar(512) NOT NULL PRIMARY KEY, sev_version int(11) DEFAULT NULL, "
        "policy int(11) DEFAULT NULL, fw_api_major int(11) DEFAULT NULL, fw_api_minor int(11) DEFAULT NULL, "
        "fw_build_id int(11) DEFAULT NULL, launch_description varchar(512) DEFAULT NULL, "
        "fw_digest varchar(512) DEFAULT NULL, symkey varchar(512) DEFAULT NULL, "
        "create_date datetime DEFAULT NULL, delete_date datetime DEFAULT NULL)"
    ),
    (
        "CREATE TABLE policy (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, "
        "allowed_digests longtext DEFAULT NULL, "
        "allowed_policies longtext DEFAULT NULL, min_fw_api_major int(11) DEFAULT NULL, "
        "min_fw_api_minor int(11) DEFAULT NULL, allowed_build_ids longtext DEFAULT NULL, "
        "create_date datetime DEFAULT NULL, delete_date datetime DEFAULT NULL, valid tinyint(1) DEFAULT NULL)"
    ),
    (
        "CREATE TABLE keysets (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, keysetid varchar(50) NOT NULL, "
        "kskeys longtext DEFAULT NULL, polid int(11) DEFAULT NULL, UNIQUE(keysetid))"
    ),
    (
        "CREATE TABLE secrets (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, "
        "secret_id varchar(1024) DEFAULT NULL, "
        "secret varchar(1024) DEFAULT NULL, polid int(11) DEFAULT NULL, UNIQUE(secret_id))"
    ),
    (
        "CREATE TABLE report_keypair (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, "
        "key_id varchar(1024) DEFAULT NULL, keypair varchar(1024) DEFAULT NULL, polid int(11) DEFAULT NULL, "
        "UNIQUE(key_id))"
    ),
    (
        "CREATE TABLE resources (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, "
        "resource_id varchar(1024) DEFAULT NULL, resource_type varchar(1024) DEFAULT NULL, "
        "resource_path varchar(1024) DEFAULT NULL, polid int(11) DEFAULT NULL, UNIQUE(resource_id))"
    ),
)
MYSQLS = ("mariadb", "mysql")
SCRIPTS = {"mariadb": MARIADB, "mysql": MARIADB, "postgresql": POSTGRESQL, "sqlite": SQLITE}
DATA = (
    f"INSERT INTO secrets VALUES (10,'key_id1','{KEY_B64}',NULL)",
    f"INSERT INTO secrets VALUES (11,'default/key/two','{KEY_B64}',10)",
    "INSERT INTO secrets VALUES (12,'odd','not base64, said somebody',NULL)",
    f"INSERT INTO secrets VALUES (13,'wide','{'A' * 1024}',NULL)",
    "INSERT INTO secrets VALUES (14,'nothing',NULL,99)",
    "INSERT INTO keysets VALUES (10,'KEYSET-1','[\"key_id1\"]',NULL)",
    "INSERT INTO keysets VALUES (11,'KEYSET-2','[\"key_id1\",\"default/key/two\"]',10)",
    "INSERT INTO policy VALUES (10,'[\"<digest>\"]','[3]',0,24,'[15]','2023-01-02 03:04:05',NULL,1)",
    "INSERT INTO policy VALUES (11,NULL,NULL,NULL,NULL,NULL,NULL,'2023-01-02 03:04:05',0)",
    "INSERT INTO report_keypair VALUES (3,'report','MIG=',10)",
    "INSERT INTO resources VALUES (3,'one','Policy','policy.json',NULL)",
    (
        f"INSERT INTO conn_bundle VALUES ('{CLIENT}',NULL,-2,0,24,15,'shim launch','d','{KEY_B64}',"
        "'2023-01-02 03:04:05',NULL)"
    ),
)


def drop_all(database: TestDatabase) -> None:
    engine = connect_engine(database.url)
    with engine.connect() as connection:
        tables = inspect(connection).get_table_names()
    engine.dispose()
    database.sql(*(f"DROP TABLE {name}" for name in tables))


@pytest.fixture
def upstream(database: TestDatabase) -> Iterator[TestDatabase]:
    """The database as simple-kbs' script and its users left it."""
    drop_all(database)
    database.sql(*SCRIPTS[database.kind], *DATA)
    yield database
    drop_all(database)


@pytest.fixture
def empty(database: TestDatabase) -> Iterator[TestDatabase]:
    drop_all(database)
    yield database
    drop_all(database)


def opened(database: TestDatabase, **options: Any) -> Database:
    return open_database(database.url, keks=KekSources(database.kek), **options)


def picture(database: TestDatabase, *, rows: bool = True) -> Any:
    """Everything about simple-kbs' tables: how they were made, counters, and all rows."""
    if database.kind in MYSQLS:
        made: Any = [database.query(f"SHOW CREATE TABLE {name}")[0][1] for name in UPSTREAM_TABLES]
    elif database.kind == "sqlite":
        made = database.query(
            "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE '%sealpod%' ORDER BY name"
        )
        made += database.query("SELECT * FROM sqlite_sequence ORDER BY name")
    else:
        made = database.query(
            "SELECT table_name, column_name, ordinal_position, column_default, is_nullable, data_type, "
            "character_maximum_length FROM information_schema.columns WHERE table_schema='public' "
            "AND table_name NOT LIKE 'sealpod%' ORDER BY 1, 3"
        )
        made += database.query(
            "SELECT indexdef FROM pg_indexes WHERE tablename NOT LIKE 'sealpod%' "
            "AND schemaname='public' ORDER BY 1"
        )
        made += database.query("SELECT sequencename, last_value FROM pg_sequences ORDER BY 1")
    contents = {name: database.query(f"SELECT * FROM {name} ORDER BY id") for name in UPSTREAM_TABLES}
    return made, contents if rows else None


def test_the_revisions_are_known() -> None:
    directory = Path(layout.__file__).parent / "migrations"
    scripts = ScriptDirectory(str(directory))
    assert tuple(one.revision for one in reversed(list(scripts.walk_revisions()))) == layout.REVISIONS
    assert scripts.get_current_head() == layout.HEAD


def test_the_head_is_the_schema(empty: TestDatabase) -> None:
    """What the migrations make is what the statements are written for."""
    with opened(empty) as db, db.engine.connect() as connection:
        assert state_of(db.engine) == State(Layout.CURRENT, layout.HEAD)
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": False,
                "include_name": lambda name, kind, _parents: (kind, name) != ("table", layout.VERSION_TABLE),
            },
        )
        differences = compare_metadata(context, schema.metadata)
    # Names and kinds of unique constraints are the databases' own affair.
    assert [
        one for one in differences if "constraint" not in str(one[0]) and "index" not in str(one[0])
    ] == []


def test_a_new_database_has_simple_kbs_columns(upstream: TestDatabase) -> None:
    """Made here or by simple-kbs' script: the same columns in the same order, of the same types."""

    def columns() -> Any:
        if upstream.kind == "sqlite":
            # Its types are words that mean nothing: integers and texts of any size.
            return {
                name: [row[1] for row in upstream.query(f"PRAGMA table_info({name})")]
                for name in UPSTREAM_TABLES
            }
        schema_of = "database()" if upstream.kind in MYSQLS else "'public'"
        kind = "column_type" if upstream.kind in MYSQLS else "udt_name"
        names = ",".join(f"'{name}'" for name in UPSTREAM_TABLES)
        return upstream.query(
            f"SELECT table_name, column_name, ordinal_position, is_nullable, {kind}, "
            "character_maximum_length "
            f"FROM information_schema.columns WHERE table_schema={schema_of} AND table_name IN ({names}) "
            "ORDER BY 1, 3"
        )

    theirs = columns()
    drop_all(upstream)
    opened(upstream).close()
    assert columns() == theirs


def test_refused_until_it_is_migrated(upstream: TestDatabase) -> None:
    before = picture(upstream)
    with pytest.raises(ConflictError) as caught:
        opened(upstream)
    assert caught.value.code == "store.unmigrated"
    assert "simple-kbs" in caught.value.message
    assert "sealpod kbs migrate up" in caught.value.remedy
    assert picture(upstream) == before


def test_up_changes_nothing_that_was_there(upstream: TestDatabase) -> None:
    before = picture(upstream)
    with opened(upstream, migrate=True) as db:
        assert state_of(db.engine).layout is Layout.CURRENT
        assert picture(upstream) == before
        assert migrate.upgrade(db.engine).layout is Layout.CURRENT
        assert picture(upstream) == before
        store = SqlBrokerStore(db)
        secret, keyset = store.find_secret("default/key/two"), store.find_keyset("KEYSET-2")
        assert secret is not None
        assert secret.value == SecretBytes(KEY_B64.encode())
        assert secret.rule == Rule(("<digest>",), (3,), (0, 24), (15,))
        assert keyset is not None
        assert keyset.rule == secret.rule
        connection = store.find_connection(UUID(CLIENT))
        assert connection is not None
        assert connection.evidence.policy == 2**32 - 2


def test_ids_of_an_adopted_database_are_exactly_themselves(upstream: TestDatabase) -> None:
    """simple-kbs' tables on MySQL take ids that differ by case for the same; nobody gets another's secret."""
    with opened(upstream, migrate=True) as db:
        store = SqlBrokerStore(db)
        for name in ("KEY_ID1", "key_id1 ", "Key_Id1"):
            assert store.find_secret(name) is None
            with pytest.raises(NotFoundError):
                secrets.delete_secret(db, name)
        if upstream.kind in MYSQLS:
            with pytest.raises(ConflictError) as caught:
                secrets.set_secret(db, "KEY_ID1", SecretBytes(b"k"), policy=None)
            assert caught.value.code == "store.same-id"
        else:
            secrets.set_secret(db, "KEY_ID1", SecretBytes(b"k"), policy=None)
        found = store.find_secret("key_id1")
        assert found is not None
        assert found.value == SecretBytes(KEY_B64.encode())


def test_down_gives_back_what_was_there(upstream: TestDatabase) -> None:
    before = picture(upstream)
    with opened(upstream, migrate=True) as db:
        walked = seal_plain(db)
        # What is too wide when sealed stays as it is, and is told.
        assert dict(walked.written) == {"secret": 3, "report key": 1, "connection": 1}
        assert [(noun, key) for noun, key, _ in walked.failed] == [("secret", "wide")]
        assert picture(upstream)[0] == before[0]
        assert picture(upstream) != before
        assert b"not base64, said" not in upstream.dump()
        assert migrate.downgrade(db) == State(Layout.FOREIGN, None)
    assert picture(upstream) == before
    assert b"sealpod" not in (upstream.dump() if upstream.kind != "sqlite" else b"")
    # And up again.
    with opened(upstream, migrate=True) as db:
        assert secrets.show_secret(db, "key_id1").size == 32
    assert picture(upstream) == before


def test_down_says_what_it_would_lose(upstream: TestDatabase) -> None:
    with opened(upstream, migrate=True) as db:
        policies.set_policy(db, "named", Rule())
        secrets.set_secret(db, "new", SecretBytes(b"k"), policy="named")
        SqlBrokerStore(db).settle(Change(Decision("GetBundle")), now=1.0, limits=Limits())
        with pytest.raises(ConflictError) as caught:
            migrate.downgrade(db)
        assert caught.value.code == "store.would-lose"
        assert "1 audit records and 1 names of policies" in caught.value.message
        assert secrets.show_secret(db, "new").sealed
        migrate.downgrade(db, discard=True)
    # What was set here is simple-kbs' now: in plain, with the number of its policy.
    ((value, polid),) = upstream.query("SELECT secret, polid FROM secrets WHERE secret_id='new'")
    assert value == "aw=="
    assert upstream.query(f"SELECT valid FROM policy WHERE id={polid}") == [(1,)]


def test_down_without_the_keys_drops_nothing(upstream: TestDatabase, tmp_path: Path) -> None:
    with opened(upstream, migrate=True) as db:
        seal_plain(db)
    before = picture(upstream)
    other = tmp_path / "other"
    other.write_bytes(bytes(32))
    other.chmod(0o600)
    with open_database(upstream.url, keks=KekSources(f"file:{other}"), check_keys=False) as db:
        with pytest.raises(VerificationError) as caught:
            migrate.downgrade(db)
        assert caught.value.code == "seal.key-missing"
        assert state_of(db.engine).layout is Layout.CURRENT
    assert picture(upstream) == before


def test_a_migration_that_was_interrupted(upstream: TestDatabase) -> None:
    """MySQL commits each statement on tables: what a killed migration left is gone on with."""
    with opened(upstream, migrate=True):
        pass
    upstream.sql(
        "DROP TABLE sealpod_audit_head", "DROP TABLE sealpod_connections", "DELETE FROM sealpod_schema"
    )
    with pytest.raises(ConflictError):
        opened(upstream)
    with opened(upstream, migrate=True) as db:
        assert state_of(db.engine).layout is Layout.CURRENT
        SqlBrokerStore(db).settle(Change(Decision("GetBundle")), now=1.0, limits=Limits())
    upstream.sql(f"UPDATE {layout.VERSION_TABLE} SET version_num='0001'")
    with pytest.raises(ConflictError, match="an earlier sealpod"):
        opened(upstream)
    with opened(upstream, migrate=True) as db:
        assert state_of(db.engine).layout is Layout.CURRENT


def test_a_later_version_is_refused(upstream: TestDatabase) -> None:
    opened(upstream, migrate=True).close()
    upstream.sql(f"UPDATE {layout.VERSION_TABLE} SET version_num='9999'")
    for options in ({}, {"migrate": True}):
        with pytest.raises(ConflictError) as caught:
            opened(upstream, **options)
        assert caught.value.code == "store.too-new"
    upstream.sql(f"UPDATE {layout.VERSION_TABLE} SET version_num='{layout.HEAD}'")


def test_tables_of_somebody_else(empty: TestDatabase) -> None:
    empty.sql("CREATE TABLE secrets (id INTEGER PRIMARY KEY, diary varchar(100))")
    with pytest.raises(ConflictError) as caught:
        opened(empty, migrate=True)
    assert caught.value.code == "store.layout"
    assert "secrets" in caught.value.message
    engine = connect_engine(empty.url)
    assert inspect(engine).get_table_names() == ["secrets"]
    engine.dispose()


@pytest.mark.parametrize("filled", [False, True])
def test_replicas_that_start_together(empty: TestDatabase, filled: bool) -> None:
    database = empty
    if filled:
        database.sql(*SCRIPTS[database.kind], *DATA)
    failures: list[BaseException] = []
    barrier = threading.Barrier(3)

    def begin() -> None:
        barrier.wait(timeout=30)
        try:
            opened(database, migrate=True).close()
        except SealpodError as error:
            failures.append(error)

    threads = [threading.Thread(target=begin) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert failures == []
    assert database.query("SELECT count(*) FROM sealpod_audit_head") == [(1,)]
    assert database.query(f"SELECT version_num FROM {layout.VERSION_TABLE}") == [(layout.HEAD,)]
