# SPDX-License-Identifier: Apache-2.0
"""SQLite keeps any value in any column, and owners write statements: each command says something about what
it finds there, and none ends in a traceback."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path
from uuid import UUID

import pytest

from sealpod.cli import main
from sealpod.kbs.core.audit import Decision
from sealpod.kbs.core.evidence import Evidence
from sealpod.kbs.core.limits import Limits
from sealpod.kbs.core.records import Change, Connection, Launch, Platform
from sealpod.kbs.store.broker import SqlBrokerStore
from sealpod.kbs.store.database import open_database
from sealpod.kbs.store.keysets import set_keyset
from sealpod.kbs.store.policies import Rule, set_policy
from sealpod.kbs.store.reports import generate_report_key
from sealpod.kbs.store.resources import set_resource
from sealpod.kbs.store.secrets import set_secret
from sealpod.secret import SecretBytes

NOUNS = ("secret", "keyset", "policy", "resource", "report-key", "connection", "launch", "audit")
COMMANDS = [("doctor",), ("seal",), ("rewrap",), ("audit", "verify")]
COMMANDS += [(noun, "list", *form) for noun in NOUNS for form in ((), ("-o", "json"))]
KNOWN = {0, 1, 3, 4}

GARBAGE = {
    "a policy's name for its number": "UPDATE secrets SET polid='strict'",
    "bytes for a policy's number": "UPDATE keysets SET polid=x'41'",
    "bytes for a secret": "UPDATE secrets SET secret=x'ff00'",
    "bytes for a report key": "UPDATE report_keypair SET keypair=x'ff00'",
    "bytes for ids": "UPDATE keysets SET keysetid=x'ff00'",
    "a policy of other types": "UPDATE policy SET allowed_digests=x'ff', min_fw_api_major='a', valid='yes'",
    "a policy of nothing": "UPDATE policy SET allowed_digests=NULL, min_fw_api_minor=NULL, valid=NULL",
    "a connection of other types": "UPDATE conn_bundle SET policy='x', fw_digest=x'ff', symkey=x'ff'",
    "a connection from no year": "UPDATE sealpod_connections SET created_at=1e15",
    "a connection from no time": "UPDATE sealpod_connections SET created_at=9e999, root=x'ff', messages='y'",
    "a launch of other types": "UPDATE sealpod_launches SET policy='y', sealed_keys='zz', expires_at='later'",
    "a launch that never ends": "UPDATE sealpod_launches SET created_at=1e15, expires_at=9e999",
    "a resource of nothing": "UPDATE resources SET resource_id=NULL, resource_type=NULL, resource_path=NULL",
    "an audit record of bytes": "UPDATE sealpod_audit SET record=x'ff', hash=x'ff'",
    "an audit head of no number": "UPDATE sealpod_audit_head SET seq='many'",
}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """With one of everything."""
    path = tmp_path / "kbs.db"
    platform = Platform("model", "a" * 64, "b" * 64, "c" * 64)
    with open_database(f"sqlite:///{path}") as db:
        set_policy(db, "strict", Rule())
        set_secret(db, "key_id1", SecretBytes(b"k" * 32), policy="strict")
        set_keyset(db, "KEYSET-1", ["key_id1"], policy="strict")
        generate_report_key(db, "report", policy=None)
        set_resource(db, "resource", kind="type", path="file", policy=None)
        evidence = Evidence(3, 0, 24, 15, "digest", "shim launch")
        made = Connection(UUID(int=7), SecretBytes(b"c" * 32), evidence, platform, 100.0)
        sealed = db.sealer.seal(SecretBytes(b"t" * 32), context=b"")
        launch = Launch(UUID(int=8), 3, sealed, platform, 100.0, 200.0)
        change = Change(Decision("GetSecret", "granted"), opens=launch, connections=(made,))
        SqlBrokerStore(db).settle(change, now=100.0, limits=Limits())
    return path


@pytest.mark.parametrize("statement", GARBAGE.values(), ids=GARBAGE)
def test_no_command_ends_in_a_traceback(
    database: Path, statement: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with sqlite3.connect(database) as connection:
        assert connection.execute(statement).rowcount == 1
    connection.close()
    for command in COMMANDS:
        monkeypatch.setattr(sys, "argv", ["sealpod", "kbs", *command, "--database", f"sqlite:///{database}"])
        status = main.main()
        shown = capsys.readouterr()
        assert status in KNOWN, (command, shown.err)
        if "json" in command and status == 0:
            json.loads(shown.out)


def test_the_doctor_says_that_a_name_is_no_number(
    database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE secrets SET polid='strict'")
    connection.close()
    monkeypatch.setattr(sys, "argv", ["sealpod", "kbs", "doctor", "--database", f"sqlite:///{database}"])
    assert main.main() == 1
    assert "secret key_id1 refers to 'strict', which is no policy's number" in capsys.readouterr().out
