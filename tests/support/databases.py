# SPDX-License-Identifier: Apache-2.0
"""Real database servers for tests: MariaDB and PostgreSQL from Debian's packages, and SQLite beside them.

A server is a process of ours, as an unprivileged user, with a directory, a socket and a loopback port of its
own. Commits reach the operating system but not the disk, so that a killed server loses nothing and tests do
not wait. Its end is that of this object's scope.
"""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

USER = "kbsuser"
PASSWORD = "p@ss/w:rd%41 'x\"?#é€"
"""With everything a URL or a shell could take for something else, and letters that are not ASCII."""
START = 60.0
"""Seconds a server has to answer after its start."""
OUR_TABLES = ("sealpod_launches", "sealpod_connections", "sealpod_audit", "sealpod_audit_head")
UPSTREAM_TABLES = ("conn_bundle", "policy", "keysets", "secrets", "report_keypair", "resources")


class Missing(Exception):
    """A server is not installed; the text says which package has it."""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@dataclass
class Server:
    """A database server. ``start`` returns when it answers; ``kill`` is SIGKILL."""

    kind: str
    account: str
    directory: Path = field(init=False)
    port: int = field(init=False)
    process: subprocess.Popen[bytes] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        # Sockets have short names, and pytest's directories long ones that others may not enter.
        self.directory = Path(tempfile.mkdtemp(prefix=f"sealpod-{self.kind}-"))
        self.port = free_port()
        if os.geteuid() == 0:
            entry = pwd.getpwnam(self.account)
            os.chown(self.directory, entry.pw_uid, entry.pw_gid)

    # --- what differs ---

    def prepare(self) -> None:
        raise NotImplementedError

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def admin_url(self, database: str = "") -> URL:
        raise NotImplementedError

    def url(self, database: str, *, port: int | None = None) -> URL:
        raise NotImplementedError

    def set_up_user(self) -> None:
        raise NotImplementedError

    def create(self, database: str) -> None:
        raise NotImplementedError

    def run_sql(self, database: str, *statements: str) -> None:
        """By the server's own client program, as a key owner does."""
        raise NotImplementedError

    def dump(self, database: str) -> bytes:
        """By the server's own dump program, with every value."""
        raise NotImplementedError

    # --- what does not ---

    def run(self, *argv: str, stdin: bytes | None = None) -> bytes:
        """A program; its output."""
        done = subprocess.run(
            argv, input=stdin, capture_output=True, check=False, cwd="/", env=self.environment()
        )
        if done.returncode:
            raise RuntimeError(f"{argv[0]}: {done.stderr.decode(errors='replace')[-2000:]}")
        return done.stdout

    def as_account(self, *argv: str) -> list[str]:
        """The command, as the unprivileged account when this is root.

        By a program that changes users rather than by ``subprocess``: that would fork, and run what gRPC,
        which is in this process too, does in forked children.
        """
        if os.geteuid() != 0:
            return list(argv)
        return ["setpriv", f"--reuid={self.account}", f"--regid={self.account}", "--clear-groups", *argv]

    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8", "HOME": "/"}

    def start(self) -> None:
        # The server's own words go to a file: a pipe that nobody reads would stop it.
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                self.as_account(*self.command()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=self.environment(),
            )
        deadline = time.monotonic() + START
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"{self.kind} did not start: {(self.directory / 'log').read_text()[-2000:]}"
                )
            time.sleep(0.05)

    def _answers(self) -> bool:
        # A plain connection first: the drivers leave a socket behind when there is nobody.
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)):
                return False
        engine = create_engine(self.admin_url())
        try:
            engine.connect().close()
        except SQLAlchemyError:
            return False
        finally:
            engine.dispose()
        return True

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(timeout=60)
            self.process = None

    def stop(self) -> None:
        self.kill(signal.SIGTERM)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def execute(self, *statements: str, database: str = "") -> None:
        """As administrator, each statement committed at once."""
        engine = create_engine(self.admin_url(database), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                for statement in statements:
                    connection.exec_driver_sql(statement.replace("%", "%%"))
        finally:
            engine.dispose()


class MariaDb(Server):
    """mariadbd; :mod:`mysqlserver` has MySQL's own."""

    def __init__(self) -> None:
        server = shutil.which("mariadbd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if server is None or shutil.which("mariadb") is None or shutil.which("mariadb-install-db") is None:
            raise Missing("mariadbd is not installed (Debian packages mariadb-server and mariadb-client)")
        self.server = server
        super().__init__("mariadb", "mysql")

    @property
    def socket(self) -> Path:
        return self.directory / "s"

    def prepare(self) -> None:
        user = [f"--user={self.account}"] if os.geteuid() == 0 else []
        # As root, whose files the installer takes for the account's; it starts the server once.
        subprocess.run(
            [
                "mariadb-install-db",
                "--no-defaults",
                *user,
                f"--datadir={self.directory / 'data'}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ],
            check=True,
            capture_output=True,
        )

    def command(self) -> Sequence[str]:
        return [
            self.server,
            "--no-defaults",
            f"--datadir={self.directory / 'data'}",
            f"--socket={self.socket}",
            f"--pid-file={self.directory / 'pid'}",
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            "--skip-log-bin",
            "--skip-name-resolve",
            "--performance-schema=OFF",
            "--innodb-flush-log-at-trx-commit=2",
            "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=32M",
            "--innodb-doublewrite=0",
            "--max-connections=300",
        ]

    def admin_url(self, database: str = "") -> URL:
        return URL.create(
            "mysql+pymysql",
            username="root",
            database=database or None,
            query={"unix_socket": str(self.socket)},
        )

    def url(self, database: str, *, port: int | None = None) -> URL:
        return URL.create(
            "mysql+pymysql",
            username=USER,
            password=PASSWORD,
            host="127.0.0.1",
            port=port or self.port,
            database=database,
        )

    def set_up_user(self) -> None:
        quoted = PASSWORD.replace("\\", "\\\\").replace("'", "''")
        self.execute(f"CREATE USER '{USER}'@'%' IDENTIFIED BY '{quoted}'")

    def create(self, database: str) -> None:
        self.execute(
            f"CREATE DATABASE {database} CHARACTER SET utf8mb4", f"GRANT ALL ON {database}.* TO '{USER}'@'%'"
        )

    def client(self) -> list[str]:
        return ["--no-defaults", f"--user={USER}", f"--socket={self.socket}"]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "MYSQL_PWD": PASSWORD}

    def run_sql(self, database: str, *statements: str) -> None:
        text = "".join(f"{statement};\n" for statement in statements).encode()
        self.run("mariadb", *self.client(), "--default-character-set=utf8mb4", database, stdin=text)

    def dump(self, database: str) -> bytes:
        return self.run("mariadb-dump", *self.client(), "--skip-extended-insert", "--hex-blob", database)


class PostgreSql(Server):
    """postgres of the newest installed version."""

    def __init__(self) -> None:
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"), key=_version)
        if not found:
            raise Missing("postgres is not installed (Debian package postgresql)")
        self.bin = Path(found[-1]).parent
        super().__init__("postgresql", "postgres")

    def prepare(self) -> None:
        command = [
            str(self.bin / "initdb"),
            f"--pgdata={self.directory / 'data'}",
            "--username=postgres",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        ]
        self.run(*self.as_account(*command))

    def command(self) -> Sequence[str]:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.directory),
            "fsync": "off",
            "full_page_writes": "off",
            "shared_buffers": "64MB",
            "max_connections": "300",
            # In files of its directory, which go with it even when the server was killed.
            "dynamic_shared_memory_type": "mmap",
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [str(self.bin / "postgres"), "-D", str(self.directory / "data"), *settings]

    def stop(self) -> None:
        # Fast shutdown: sessions end now.
        self.kill(signal.SIGINT)

    def close(self) -> None:
        # Immediate shutdown: as fast as SIGKILL, but its shared memory goes with it.
        with contextlib.suppress(ProcessLookupError):
            self.kill(signal.SIGQUIT)
        with contextlib.suppress(FileNotFoundError):
            # A server that was killed has left its file, with the memory's number in the seventh line.
            lines = (self.directory / "data/postmaster.pid").read_text().splitlines()
            for line in lines[6:7]:
                subprocess.run(["ipcrm", "--shmem-id", line.split()[1]], check=False)
        super().close()

    def admin_url(self, database: str = "") -> URL:
        return URL.create(
            "postgresql+psycopg",
            username="postgres",
            port=self.port,
            database=database or "postgres",
            query={"host": str(self.directory)},
        )

    def url(self, database: str, *, port: int | None = None) -> URL:
        return URL.create(
            "postgresql+psycopg",
            username=USER,
            password=PASSWORD,
            host="127.0.0.1",
            port=port or self.port,
            database=database,
        )

    def set_up_user(self) -> None:
        quoted = PASSWORD.replace("'", "''")
        self.execute(f"CREATE USER {USER} PASSWORD '{quoted}'")

    def create(self, database: str) -> None:
        self.execute(f"CREATE DATABASE {database} OWNER {USER}")

    def client(self, database: str) -> list[str]:
        return [f"--host={self.directory}", f"--port={self.port}", f"--username={USER}", database]

    def run_sql(self, database: str, *statements: str) -> None:
        text = "".join(f"{part};\n" for one in statements for part in _without_replace(one)).encode()
        options = ["-v", "ON_ERROR_STOP=1", "--quiet", "--no-psqlrc", "--single-transaction"]
        self.run(str(self.bin / "psql"), *options, *self.client(database), stdin=text)

    def dump(self, database: str) -> bytes:
        return self.run(str(self.bin / "pg_dump"), *self.client(database))


class TestDatabase:
    """One empty database. ``url`` and ``kek`` are what a broker is given; ``kek`` None for SQLite's own."""

    __test__ = False

    def __init__(self, kind: str, url: URL, *, directory: Path, server: Server | None = None) -> None:
        self.kind = kind
        self.url = url
        self.server = server
        self.directory = directory
        self.kek: str | None = None
        if server is not None:
            key = directory / "kek"
            key.write_bytes(os.urandom(32))
            key.chmod(0o600)
            self.kek = f"file:{key}"

    @property
    def text(self) -> str:
        """The URL with its password, as a command's environment has it."""
        return self.url.render_as_string(hide_password=False)

    @property
    def environment(self) -> dict[str, str]:
        """What a ``sealpod kbs`` process needs to work on it."""
        found = {"SEALPOD_KBS_DATABASE": self.text}
        return found if self.kek is None else {**found, "SEALPOD_KBS_KEK": self.kek}

    def sql(self, *statements: str) -> None:
        """What a key owner types into the database's shell, one transaction."""
        if self.server is not None:
            self.server.run_sql(str(self.url.database), *statements)
            return
        connection = sqlite3.connect(str(self.url.database), timeout=10)
        connection.create_function("now", 0, lambda: time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()))
        with connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        engine = _engine(self.url)
        try:
            with engine.connect() as connection:
                return [tuple(row) for row in connection.exec_driver_sql(statement.replace("%", "%%"))]
        finally:
            engine.dispose()

    def dump(self) -> bytes:
        """Everything that is stored, for a search for what should not be."""
        if self.server is not None:
            return self.server.dump(str(self.url.database))
        path = Path(str(self.url.database))
        # By another process: closing a file drops all locks this one has on it, SQLite's too.
        files = [str(one) for one in path.parent.iterdir() if one.suffix != ".kek" and one.is_file()]
        return subprocess.run(["cat", "--", *files], capture_output=True, check=True).stdout

    def empty(self) -> None:
        """Delete all rows, whatever tables there are."""
        engine = _engine(self.url)
        try:
            with engine.begin() as connection:
                there = _tables(connection)
                for table in (*UPSTREAM_TABLES, *OUR_TABLES, "sealpod_policy_names"):
                    if table in there and table != "sealpod_audit_head":
                        connection.exec_driver_sql(f"DELETE FROM {table}")
                if "sealpod_audit_head" in there:
                    connection.exec_driver_sql(f"UPDATE sealpod_audit_head SET seq=0, hash='{'0' * 64}'")
        finally:
            engine.dispose()


def _engine(url: URL) -> Engine:
    mysql = url.get_backend_name() == "mysql"
    # A password in text becomes Latin-1 in PyMySQL.
    return create_engine(url, connect_args={"password": str(url.password).encode()} if mysql else {})


def _tables(connection: Any) -> set[str]:
    from sqlalchemy import inspect

    return set(inspect(connection).get_table_names())


def sqlite_database(directory: Path) -> TestDatabase:
    return TestDatabase(
        "sqlite", URL.create("sqlite", database=str(directory / "kbs.db")), directory=directory
    )


_made = 0


def server_database(server: Server, directory: Path) -> TestDatabase:
    global _made
    _made += 1
    name = f"kbs{_made}"
    server.create(name)
    return TestDatabase(server.kind, server.url(name), directory=directory, server=server)


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """The server, started, with the user its databases belong to."""
    try:
        server.prepare()
        server.start()
        server.set_up_user()
        yield server
    finally:
        server.close()


def _version(path: str) -> int:
    match = re.search(r"/(\d+)/bin/", path)
    return int(match[1]) if match else 0


def _without_replace(statement: str) -> list[str]:
    """MySQL's and SQLite's REPLACE in PostgreSQL's words: the row of that number goes first."""
    match = re.match(r"\s*REPLACE INTO (\w+) VALUES \(\s*('[^']*'|\d+)", statement)
    if match is None:
        return [statement]
    return [
        f"DELETE FROM {match[1]} WHERE id = {match[2]}",
        statement.replace("REPLACE INTO", "INSERT INTO", 1),
    ]
