# SPDX-License-Identifier: Apache-2.0
"""The commands on a database as their user meets them: resources, report keys, connections, launches, keys of
records, migration, and the doctor's findings."""

from __future__ import annotations

import base64
import json
import re
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sealpod.cli import main
from sealpod.kbs.core.audit import Decision
from sealpod.kbs.core.evidence import Evidence
from sealpod.kbs.core.limits import Limits
from sealpod.kbs.core.records import Change, Connection, Launch, Platform
from sealpod.kbs.store.broker import SqlBrokerStore
from sealpod.kbs.store.database import open_database
from sealpod.secret import SecretBytes

DEMO = "RcHGava52DPvj1uoIk/NVDYlwxi0A6yyIZ8ilhEX3X4="
KEY = b"a-key-that-must-not-be-shown-123"
CLIENT, LAUNCH = UUID(int=7), UUID(int=8)


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


Run = Callable[..., Done]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kbs.db"


@pytest.fixture
def kbs(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``sealpod kbs ...`` in this process, on a database of its own."""
    monkeypatch.setenv("KBS_DB_TYPE", "sqlite3")
    monkeypatch.setenv("KBS_DB", str(path))

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["sealpod", "kbs", *arguments])
        try:
            status = main.main()
        except SystemExit as exit_:  # argparse
            status = int(exit_.code or 0)
        return Done(status, *capsys.readouterr())

    return run


@pytest.fixture
def key(tmp_path: Path) -> str:
    file = tmp_path / "key.bin"
    file.write_bytes(KEY)
    return str(file)


def sql(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def checks(done: Done) -> set[tuple[str, str, str]]:
    return {(one["level"], one["check"], one["subject"]) for one in done.json["findings"]}


def test_resources(kbs: Run) -> None:
    assert kbs("policy", "set", "p").returncode == 0
    done = kbs("resource", "set", "one", "--type", "Policy", "--path", "policy.json", "--policy", "p")
    assert (done.returncode, done.stdout) == (0, "resource one set: Policy is policy.json, policy: p\n")
    assert kbs("resource", "list", "-o", "json").json["resources"] == [
        {"id": "one", "type": "Policy", "path": "policy.json", "policy": "p", "first": True}
    ]
    assert "path: policy.json" in kbs("resource", "show", "one").stdout
    assert kbs("resource", "set", "two", "--type", "Policy", "--path", "../../etc/passwd").returncode == 2
    assert kbs("resource", "delete", "one").returncode == 0
    assert kbs("resource", "show", "one").returncode == 4


def test_report_keys(kbs: Run, tmp_path: Path) -> None:
    made = kbs("report-key", "set", "r", "--generate")
    assert made.returncode == 0
    assert "-----BEGIN PUBLIC KEY-----" in made.stdout
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    (tmp_path / "key.pem").write_bytes(pem)
    again = kbs("report-key", "set", "r", "--from-file", str(tmp_path / "key.pem"))
    assert again.returncode == 0
    assert again.stdout != made.stdout
    shown = kbs("report-key", "show", "r", "-o", "json").json
    assert shown["sealed"]
    assert "PRIVATE" not in json.dumps(shown)
    assert kbs("report-key", "list").stdout.split()[-4:] == ["r", "yes", "-", "yes"]
    assert kbs("report-key", "set", "r").returncode == 2
    assert kbs("report-key", "delete", "r").returncode == 0


def test_connections_and_launches(kbs: Run, path: Path) -> None:
    platform = Platform("model", "a" * 64, "b" * 64, "c" * 64)
    with open_database(f"sqlite:///{path}") as db:
        store = SqlBrokerStore(db)
        guest = Connection(CLIENT, SecretBytes(KEY), Evidence(3, 1, 2, 3, "d", "text"), platform, 100.0)
        launch = Launch(LAUNCH, 3, b"sealed", platform, 100.0, 200.0)
        change = Change(Decision("GetSecret"), connections=(guest,), opens=launch)
        store.settle(change, now=100.0, limits=Limits())
    listed = kbs("connection", "list", "-o", "json").json["connections"]
    assert [(one["id"], one["active"], one["firmware"]) for one in listed] == [(str(CLIENT), True, "1.2.3")]
    assert kbs("connection", "revoke", str(CLIENT)).returncode == 0
    assert kbs("connection", "list", "-o", "json").json["connections"] == []
    assert len(kbs("connection", "list", "--all", "-o", "json").json["connections"]) == 1
    assert "active: no" in kbs("connection", "show", str(CLIENT)).stdout
    assert kbs("connection", "delete", str(CLIENT)).returncode == 0
    assert kbs("connection", "show", str(CLIENT)).returncode == 4
    (found,) = kbs("launch", "list", "-o", "json").json["launches"]
    assert (found["id"], found["created"], found["expired"]) == (
        str(LAUNCH),
        "1970-01-01T00:01:40.000000Z",
        True,
    )
    assert "root: model" in kbs("launch", "show", str(LAUNCH)).stdout
    assert kbs("launch", "delete", str(LAUNCH)).returncode == 0
    assert kbs("launch", "delete", str(LAUNCH)).returncode == 4


def test_keys_of_records(kbs: Run, path: Path, key: str, tmp_path: Path, monkeypatch: Any) -> None:
    assert kbs("secret", "set", "sealed", "--from-file", key).returncode == 0
    plain = base64.b64encode(KEY).decode()
    sql(path, f"REPLACE INTO secrets VALUES (10,'plain','{plain}',NULL)")
    assert ("warning", "plain", "secrets") in checks(kbs("doctor", "-o", "json"))
    listed = kbs("secret", "list", "-o", "json").json["secrets"]
    assert {one["id"]: one["sealed"] for one in listed} == {"plain": False, "sealed": True}
    assert kbs("seal").stdout == "sealed: secrets: 1\n"
    assert kbs("seal").stdout == "sealed: nothing to do\n"
    assert plain.encode() not in path.read_bytes()
    assert kbs("secret", "show", "plain", "--reveal").stdout.endswith(f"value: {plain}\n")
    assert plain not in kbs("secret", "show", "plain").stdout
    # Another key: the old one by option, the new one by the environment.
    new = tmp_path / "new"
    new.write_bytes(bytes(32))
    new.chmod(0o600)
    monkeypatch.setenv("SEALPOD_KBS_KEK", f"file:{new}")
    done = kbs("doctor", "-o", "json")
    assert done.returncode == 1
    assert "kek-missing" in {check for _, check, _ in checks(done)}
    assert kbs("secret", "show", "plain", "--reveal").returncode == 3
    helpless = kbs("rewrap")
    assert helpless.returncode == 1
    assert re.search(
        r"nothing to do; 2 left under key-encryption key [0-9a-f]+, which is not loaded: give it",
        helpless.stdout,
    )
    assert "run it again" not in helpless.stdout
    old = f"file:{path}.kek"
    assert kbs("rewrap", "--old-kek", old, "-o", "json").json == {
        "schemaVersion": 1,
        "rewrapped": {"secret": 2},
        "failed": 0,
        "left": {},
    }
    assert kbs("secret", "show", "plain", "--reveal").stdout.endswith(f"value: {plain}\n")
    assert kbs("seal", "--kek", "none").returncode == 2
    assert kbs("doctor").returncode == 0


def test_migration(kbs: Run, path: Path, key: str) -> None:
    assert "layout: empty" in kbs("migrate", "status").stdout
    sql(
        path,
        "CREATE TABLE secrets (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, secret_id varchar(1024) "
        "DEFAULT NULL, secret varchar(1024) DEFAULT NULL, polid int(11) DEFAULT NULL, UNIQUE(secret_id))",
        f"INSERT INTO secrets VALUES (10,'key_id1','{DEMO}',NULL)",
    )
    refused = kbs("secret", "list")
    assert refused.returncode == 5
    assert "store.unmigrated" in refused.stderr
    assert ("error", "unmigrated", "database") in checks(kbs("doctor", "-o", "json"))
    assert kbs("migrate", "up").stdout == "migrated from simple-kbs, revision 0002\n"
    assert kbs("migrate", "up").stdout == "nothing to do, revision 0002\n"
    assert kbs("migrate", "status", "-o", "json").json == {
        "schemaVersion": 1,
        "layout": "current",
        "revision": "0002",
        "head": "0002",
    }
    assert kbs("seal").returncode == 0
    assert kbs("policy", "set", "p").returncode == 0
    refused = kbs("migrate", "down")
    assert (refused.returncode, "store.would-lose" in refused.stderr) == (5, True)
    assert "simple-kbs' again" in kbs("migrate", "down", "--discard").stdout
    assert kbs("migrate", "down").stdout == "nothing to do\n"
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT * FROM secrets").fetchall() == [(10, "key_id1", DEMO, None)]
    connection.close()


class TestDoctor:
    def test_nothing_is_wrong(self, kbs: Run, key: str) -> None:
        assert kbs("policy", "set", "p", "--allow-policy", "3").returncode == 0
        assert kbs("secret", "set", "k", "--from-file", key, "--policy", "p").returncode == 0
        assert kbs("keyset", "set", "K", "--secret", "k").returncode == 0
        done = kbs("doctor")
        assert (done.returncode, done.stdout) == (0, "nothing is wrong\n")

    def test_a_key_that_is_gone_is_not_yet_to_be_made(self, kbs: Run, path: Path, key: str) -> None:
        kbs("policy", "set", "p", "--allow-policy", "3")
        own = Path(f"{path}.kek")
        own.unlink()
        assert ("note", "kek", str(own)) in checks(kbs("doctor", "-o", "json"))  # nothing is sealed yet
        kbs("secret", "set", "k", "--from-file", key)
        own.unlink()
        done = kbs("doctor", "-o", "json")
        assert {("error", "kek", str(own))} == {one for one in checks(done) if one[1] == "kek"}
        assert not own.exists()

    def test_it_changes_nothing(self, kbs: Run, path: Path) -> None:
        assert ("note", "empty", "database") in checks(kbs("doctor", "-o", "json"))
        assert [one.name for one in path.parent.iterdir()] == ["kbs.db"]

    @pytest.mark.parametrize(
        ("statement", "finding"),
        [
            (
                f"REPLACE INTO secrets VALUES (10,'key_id1','{DEMO}',NULL)",
                ("warning", "demo-key", "secret key_id1"),
            ),
            ("REPLACE INTO secrets VALUES (10,'s','QUJD',NULL)", ("note", "open", "secret s")),
            ("REPLACE INTO secrets VALUES (10,'s','no base64',NULL)", ("error", "malformed", "secret s")),
            ("REPLACE INTO secrets VALUES (10,'s',NULL,NULL)", ("warning", "empty", "secret s")),
            ("REPLACE INTO secrets VALUES (10,'s','QUJD',99)", ("error", "dangling", "secret s")),
            ("REPLACE INTO secrets VALUES (10,'s','QUJD',1)", ("error", "not-in-force", "secret s")),
            ("REPLACE INTO secrets VALUES (10,'s','QUJD',2)", ("error", "malformed", "policy 2")),
            ("REPLACE INTO secrets VALUES (10,'s','sealpod:9:x',NULL)", ("error", "form", "secrets")),
            ("REPLACE INTO keysets VALUES (10,'K','[\"no\"]',NULL)", ("error", "dangling", "keyset K")),
            ("REPLACE INTO keysets VALUES (10,'K','[',NULL)", ("error", "malformed", "keyset K")),
            ("REPLACE INTO keysets VALUES (10,'K','[]',NULL)", ("warning", "empty", "keyset K")),
            ("REPLACE INTO keysets VALUES (10,'K','[]',99)", ("error", "dangling", "keyset K")),
            ("REPLACE INTO resources VALUES (10,'r','t','p',1)", ("error", "not-in-force", "resource r")),
            (
                "REPLACE INTO report_keypair VALUES (10,'r','QUJD',NULL)",
                ("error", "malformed", "report key r"),
            ),
            (
                "REPLACE INTO policy VALUES (10,'[]','[]',0,0,'[]',NULL,NULL,1)",
                ("note", "open", "policy 10"),
            ),
        ],
    )
    def test_each_finding(self, kbs: Run, path: Path, statement: str, finding: tuple[str, str, str]) -> None:
        assert kbs("secret", "list").returncode == 0
        sql(
            path,
            "REPLACE INTO policy VALUES (1,'[]','[3]',0,0,'[]',NULL,NULL,0)",
            "REPLACE INTO policy VALUES (2,'[','[]',0,0,'[]',NULL,NULL,1)",
            statement,
        )
        done = kbs("doctor", "-o", "json")
        assert finding in checks(done)
        assert done.returncode == 1  # Policy 2 cannot be read.
        text = kbs("doctor").stdout
        assert f"{finding[0]}: {finding[2]} " in text
        assert DEMO not in text

    @pytest.mark.parametrize(("mode", "level"), [(0o640, "warning"), (0o644, "error"), (0o606, "error")])
    @pytest.mark.parametrize("suffix", ["", ".kek"])
    def test_permissions(self, kbs: Run, path: Path, suffix: str, mode: int, level: str) -> None:
        assert kbs("secret", "list").returncode == 0
        file = Path(f"{path}{suffix}")
        file.chmod(mode)
        assert (level, "permissions", str(file)) in checks(kbs("doctor", "-o", "json"))

    def test_a_directory_for_everybody(self, kbs: Run, path: Path) -> None:
        assert kbs("secret", "list").returncode == 0
        path.parent.chmod(0o777)
        found = checks(kbs("doctor", "-o", "json"))
        path.parent.chmod(0o700)
        assert ("error", "permissions", str(path.parent)) in found

    def test_a_key_that_cannot_be_read(self, kbs: Run, path: Path) -> None:
        assert kbs("secret", "list").returncode == 0
        done = kbs("doctor", "--kek", "file:/no/such/key", "-o", "json")
        assert ("error", "kek", "key-encryption key") in checks(done)
