# SPDX-License-Identifier: Apache-2.0
"""What is MySQL's own and MariaDB has not: passwords, collations, SQL modes, who loses a deadlock."""

from __future__ import annotations

import base64
import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from databases import PASSWORD, USER, Server, TestDatabase, server_database
from mysqlserver import MySql
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from sealpod.errors import AccessError, ConflictError, NotFoundError, SealpodError, UnavailableError
from sealpod.kbs.core.audit import Decision
from sealpod.kbs.core.limits import Limits
from sealpod.kbs.core.records import Change, Launch, Platform
from sealpod.kbs.store import audit, secrets
from sealpod.kbs.store.auditlog import verify_log
from sealpod.kbs.store.broker import SqlBrokerStore
from sealpod.kbs.store.database import Database, open_database
from sealpod.kbs.store.engine import connect_engine, reading
from sealpod.kbs.store.keks import KekSources
from sealpod.secret import SecretBytes

KEY_B64 = "RcHGava52DPvj1uoIk/NVDYlwxi0A6yyIZ8ilhEX3X4="
SEED = f"REPLACE INTO secrets VALUES (10,'key_id1','{KEY_B64}',NULL)"
HOSTILE = ("key_id1' -- ", "' OR '1'='1", "\\' OR 1=1 -- ", "key_id1\\", '" OR ""="', "key_id1'; DO 1; -- ")


@pytest.fixture(scope="module")
def server(mysql: Server) -> MySql:
    assert isinstance(mysql, MySql)
    return mysql


@pytest.fixture(scope="module")
def database(server: MySql, tmp_path_factory: pytest.TempPathFactory) -> TestDatabase:
    return server_database(server, tmp_path_factory.mktemp("mysql"))


@pytest.fixture
def db(database: TestDatabase) -> Iterator[Database]:
    with opened(database) as made:
        yield made
    database.empty()


def opened(database: TestDatabase, **query: str) -> Database:
    url = database.url.update_query_dict(query)
    return open_database(url, keks=KekSources(database.kek), migrate=True)


def asked(url: URL, statement: str) -> tuple[str, ...]:
    """One row's values, on a connection as the broker makes it."""
    engine = connect_engine(url)
    try:
        with reading(engine) as connection:
            return tuple(str(value) for value in connection.exec_driver_sql(statement).one())
    finally:
        engine.dispose()


def refusal(url: URL) -> SealpodError:
    with pytest.raises(SealpodError) as caught:
        asked(url, "SELECT 1")
    return caught.value


def test_it_is_mysql(database: TestDatabase, server: MySql) -> None:
    (version, isolation) = asked(database.url, "SELECT version(), @@transaction_isolation")
    assert version.startswith(server.version)
    assert "MariaDB" not in version
    assert isolation == "READ-COMMITTED"


class TestPasswords:
    """caching_sha2_password: in whole inside TLS, or encrypted to the server's RSA key, or by its cache."""

    CIPHER = "SHOW STATUS LIKE 'Ssl_cipher'"

    def test_in_tls_and_then_from_the_cache(self, server: MySql, database: TestDatabase) -> None:
        server.execute("FLUSH PRIVILEGES")
        for _ in range(2):
            assert asked(database.url, self.CIPHER)[1] != ""

    def test_without_tls_by_rsa_and_then_from_the_cache(self, server: MySql, database: TestDatabase) -> None:
        server.execute("FLUSH PRIVILEGES")
        for _ in range(2):
            assert asked(database.url.update_query_dict({"ssl_disabled": "1"}), self.CIPHER)[1] == ""

    @pytest.mark.parametrize("query", [{}, {"ssl_disabled": "1"}])
    def test_a_wrong_one(self, database: TestDatabase, query: dict[str, str]) -> None:
        url = database.url.set(password="hunter2").update_query_dict(query)
        error = refusal(url)
        assert isinstance(error, AccessError)
        assert "hunter2" not in error.one_line()

    def test_a_server_that_is_known_by_its_authority(self, server: MySql, database: TestDatabase) -> None:
        """The certificates MySQL makes for itself have no host's name."""
        ours = {"ssl_ca": str(server.directory / "data" / "ca.pem"), "ssl_check_hostname": "false"}
        assert asked(database.url.update_query_dict(ours), self.CIPHER)[1] != ""

    def test_a_server_of_another_authority(self, server: MySql, database: TestDatabase) -> None:
        # Any certificate but the one that signed the server's.
        other = {"ssl_ca": str(server.directory / "data" / "client-cert.pem"), "ssl_check_hostname": "false"}
        error = refusal(database.url.update_query_dict(other))
        assert isinstance(error, UnavailableError)
        assert "certificate" in error.message

    def test_an_account_that_must_have_tls(self, server: MySql, database: TestDatabase) -> None:
        server.execute("CREATE USER tls IDENTIFIED BY 'p' REQUIRE SSL", "GRANT ALL ON *.* TO tls")
        url = database.url.set(username="tls", password="p")
        assert asked(url, self.CIPHER)[1] != ""
        assert isinstance(refusal(url.update_query_dict({"ssl_disabled": "1"})), AccessError)

    @pytest.mark.parametrize(
        ("user", "change"),
        [("locked", "ALTER USER locked ACCOUNT LOCK"), ("expired", "ALTER USER expired PASSWORD EXPIRE")],
    )
    def test_an_account_that_is_closed(
        self, server: MySql, database: TestDatabase, user: str, change: str
    ) -> None:
        server.execute(f"CREATE USER {user} IDENTIFIED BY 'p'", f"GRANT ALL ON *.* TO {user}", change)
        assert isinstance(refusal(database.url.set(username=user, password="p")), AccessError)


def test_the_tutorials_statements_by_mariadbs_client(db: Database, database: TestDatabase) -> None:
    """The client that Debian calls ``mysql``, over TCP."""
    client = shutil.which("mariadb")
    if client is None:
        pytest.skip("mariadb is not installed (Debian package mariadb-client)")
    statements = (
        SEED,
        """REPLACE INTO keysets VALUES (10,'KEYSET-1','["key_id1"]',10)""",
        """REPLACE INTO policy VALUES (10,'["<digest>"]','[]',0,0,'[]',now(),NULL,1)""",
    )
    url = database.url
    assert isinstance(url.port, int)
    words = ["--no-defaults", "--host=127.0.0.1", f"--port={url.port}", f"--user={USER}", str(url.database)]
    environment = {"MYSQL_PWD": PASSWORD, "PATH": "/usr/bin:/bin"}
    subprocess.run([client, *words], input=";\n".join(statements).encode(), check=True, env=environment)
    store = SqlBrokerStore(db)
    secret, keyset = store.find_secret("key_id1"), store.find_keyset("KEYSET-1")
    assert secret is not None
    assert keyset is not None
    assert secret.value.reveal() == KEY_B64.encode()
    assert keyset.rule is not None
    assert keyset.rule.allowed_digests == ("<digest>",)


@pytest.mark.parametrize(
    "mode", ["", "ANSI", "TRADITIONAL", "NO_BACKSLASH_ESCAPES", "ANSI_QUOTES,PAD_CHAR_TO_FULL_LENGTH"]
)
def test_sql_modes(server: MySql, database: TestDatabase, mode: str) -> None:
    """The server's mode decides what a quote and a backslash in a statement mean; ids stay ids."""
    ((before,),) = database.query("SELECT @@global.sql_mode")
    server.execute(f"SET GLOBAL sql_mode='{mode}'")
    try:
        with opened(database) as made:
            store = SqlBrokerStore(made)
            secrets.set_secret(made, "key_id1", SecretBytes(b"k"), policy=None)
            for name in HOSTILE:
                assert store.find_secret(name) is None
                secrets.set_secret(made, name.strip(), SecretBytes(name.encode()), policy=None)
            for name in HOSTILE:
                found = store.find_secret(name.strip())
                assert found is not None
                assert (found.id, found.value) == (name.strip(), SecretBytes(base64.b64encode(name.encode())))
            store.settle(Change(Decision("GetBundle", description="\\' -- ")), now=1.0, limits=Limits())
            verify_log(made.engine)
    finally:
        server.execute(f"SET GLOBAL sql_mode='{before}'")
        database.empty()


def test_ids_under_the_default_collation(db: Database, database: TestDatabase) -> None:
    """utf8mb4_0900_ai_ci takes letters with and without accent or case for the same, but not spaces."""
    as_default = "CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_ai_ci"
    database.sql(
        "ALTER TABLE secrets MODIFY secret_id varchar(700), MODIFY secret varchar(1024)",
        f"ALTER TABLE secrets {as_default}",
        f"ALTER TABLE keysets {as_default}",
        f"ALTER TABLE conn_bundle {as_default}",
        SEED,
        """REPLACE INTO keysets VALUES (10,'KEYSET-1','["key_id1"]',NULL)""",
    )
    assert database.query("SELECT count(*) FROM secrets WHERE secret_id='KÉY_ID1'") == [(1,)]
    store = SqlBrokerStore(db)
    for name in ("KEY_ID1", "kéy_id1", "key_id1 ", "\uff4bey_id1"):
        assert store.find_secret(name) is None
        with pytest.raises(NotFoundError):
            secrets.delete_secret(db, name)
    assert store.find_keyset("keyset-1") is None
    with pytest.raises(ConflictError) as caught:
        secrets.set_secret(db, "kéy_id1", SecretBytes(b"k"), policy=None)
    assert caught.value.code == "store.same-id"
    assert store.find_secret("key_id1") is not None


def launch(number: int) -> Launch:
    platform = Platform("model", "a" * 64, "b" * 64, "c" * 64)
    return Launch(UUID(int=number), 3, b"sealpod:1:00000000:AAAA", platform, 100.0, 200.0)


def test_the_loser_of_a_deadlock_asks_again(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement by hand holds a launch and then wants the log's head, which a broker holds that wants the
    launch: MySQL ends the broker's transaction, and the broker begins it anew."""
    store = SqlBrokerStore(db)
    store.settle(Change(Decision("GetBundle"), opens=launch(1)), now=100.0, limits=Limits())
    tries: list[str] = []
    locked = threading.Event()
    lock_head = audit._lock_head

    def counted(connection: object) -> object:
        head = lock_head(connection)  # type: ignore[arg-type]
        tries.append("head")
        locked.set()
        return head

    monkeypatch.setattr(audit, "_lock_head", counted)
    done: list[int] = []

    def spend() -> None:
        change = Change(Decision("GetSecret"), spends=UUID(int=1))
        done.append(store.settle(change, now=150.0, limits=Limits()).number)

    with db.engine.connect() as other:
        # Who has written less loses.
        for number in range(100):
            other.exec_driver_sql(f"INSERT INTO secrets (secret_id) VALUES ('weight{number}')")
        other.exec_driver_sql("SELECT * FROM sealpod_launches FOR UPDATE")
        spending = threading.Thread(target=spend)
        spending.start()
        assert locked.wait(timeout=30)
        # Either of them may be the one who closes the circle.
        other.exec_driver_sql("SELECT * FROM sealpod_audit_head FOR UPDATE")
        other.rollback()
        spending.join(timeout=60)
    assert done == [2]
    assert len(tries) == 2
    verify_log(db.engine)


@pytest.mark.parametrize("reason", ["killed", "idle"])
def test_connections_that_the_server_ended(server: MySql, database: TestDatabase, reason: str) -> None:
    """MySQL tells an idle one why it was ended, in an answer that nobody asked for."""
    query = {"init_command": "SET SESSION wait_timeout=1"} if reason == "idle" else {}

    def ours() -> list[int]:
        # But for the one that asks.
        rows = [row for row in database.query("SHOW PROCESSLIST") if row[7] is None]
        return [row[0] for row in rows if row[1] == USER and row[3] == database.url.database]

    def ended() -> None:
        if reason == "killed":
            for number in ours():
                with contextlib.suppress(SQLAlchemyError):  # One that ends by itself is not to be found.
                    server.execute(f"KILL {number}")
        deadline = time.monotonic() + 60
        while ours():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    with opened(database, **query) as made:
        store = SqlBrokerStore(made)
        assert ours() != []
        ended()
        assert store.find_secret("key_id1") is None
        assert ours() != []
        ended()
        store.settle(Change(Decision("GetBundle"), opens=launch(1)), now=100.0, limits=Limits())
        assert verify_log(made.engine).number == 1
    database.empty()


def test_tables_made_here_tell_ids_apart(server: MySql, tmp_path: Path) -> None:
    """Tables made here keep MySQL from comparing ids in its default way, whatever the database's is."""
    made = server_database(server, tmp_path)
    server.execute(f"ALTER DATABASE {made.url.database} COLLATE utf8mb4_0900_ai_ci")
    opened(made).close()
    found = made.query(
        "SELECT DISTINCT collation_name FROM information_schema.columns "
        "WHERE table_schema=database() AND column_name IN ('secret_id','keysetid','launch_id','name','id') "
        "AND collation_name IS NOT NULL"
    )
    assert {name for (name,) in found} == {"utf8mb3_bin", "utf8mb4_bin"}
