# SPDX-License-Identifier: Apache-2.0
"""``sealpod kbs`` as its user meets it: exit status, what goes to which stream, JSON.

Serving itself is tested in contract/kbs.
"""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from sealpod.cli import main

KEY = bytes(range(32))
DIGEST = bytes(range(100, 132))


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    made = f"sqlite:///{tmp_path / 'kbs.db'}"
    monkeypatch.setenv("SEALPOD_KBS_DATABASE", made)
    return made


@pytest.fixture
def kbs(url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``sealpod kbs ...`` in this process, with a database of its own; ``stdin`` as bytes."""

    def run(*arguments: str, stdin: bytes = b"") -> Done:
        monkeypatch.setattr(sys, "argv", ["sealpod", "kbs", *arguments])
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin)))
        try:
            status = main.main()
        except SystemExit as exit_:  # argparse
            status = int(exit_.code or 0)
        return Done(status, *capsys.readouterr())

    return run


def test_the_installed_command(url: str) -> None:
    def run(*arguments: str, stdin: bytes = b"") -> Done:
        command = [sys.executable, "-m", "sealpod.cli.main", "kbs", *arguments]
        done = subprocess.run(
            command, input=stdin, capture_output=True, env=os.environ, timeout=60, check=False
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    assert run("secret", "set", "k", "--from-file", "-", "--database", url, stdin=KEY).returncode == 0
    assert run("secret", "list").stdout.splitlines()[1].split() == ["k", "32", "-", "yes"]
    missing = run("secret", "show", "nope")
    assert (missing.returncode, missing.stdout) == (4, "")
    assert missing.stderr.startswith("sealpod: error: no secret 'nope'; ")
    assert missing.stderr.count("\n") == 1


def test_an_owners_day(kbs: Run, tmp_path: Path) -> None:
    done = kbs(
        "policy",
        "set",
        "guest",
        "--digest",
        DIGEST.hex(),
        "--digest",
        base64.b64encode(DIGEST).decode(),
        "--allow-policy",
        "0x3",
        "--allow-policy",
        "7",
        "--min-api",
        "0.24",
        "--build-id",
        "15",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "policy guest set, number 1\n", "")
    done = kbs("secret", "set", "key_id1", "--from-file", "-", "--policy", "guest", stdin=KEY)
    assert done.stdout == "secret key_id1 set, 32 bytes, policy: guest\n"
    done = kbs("keyset", "set", "KEYSET-1", "--secret", "key_id1")
    assert done.stdout == "keyset KEYSET-1 set: key_id1, policy: none\n"

    shown = json.loads(kbs("policy", "show", "guest", "-o", "json").stdout)
    assert shown == {
        "schemaVersion": 1,
        "name": "guest",
        "number": 1,
        "valid": True,
        "digests": [base64.b64encode(DIGEST).decode()],
        "policies": [3, 7],
        "minApi": "0.24",
        "buildIds": [15],
        "usedBy": ["secret key_id1"],
    }
    assert json.loads(kbs("secret", "list", "-o", "json").stdout) == {
        "schemaVersion": 1,
        "secrets": [{"id": "key_id1", "bytes": 32, "policy": "guest", "sealed": True}],
    }
    assert json.loads(kbs("keyset", "show", "KEYSET-1", "-o", "json").stdout) == {
        "schemaVersion": 1,
        "id": "KEYSET-1",
        "secrets": ["key_id1"],
        "policy": None,
    }
    assert kbs("keyset", "list").stdout.splitlines()[0].split() == ["ID", "SECRETS", "POLICY"]

    refused = kbs("policy", "delete", "guest")
    assert refused.returncode == 5
    assert refused.stderr.startswith("sealpod: error: policy 'guest' is used by secret key_id1; ")
    assert kbs("secret", "delete", "key_id1").returncode == 5
    for noun, name in (("keyset", "KEYSET-1"), ("secret", "key_id1"), ("policy", "guest")):
        assert kbs(noun, "delete", name).stdout == f"{noun} {name} deleted\n"
        assert kbs(noun, "show", name).returncode == 4
    assert (tmp_path / "kbs.db").stat().st_mode & 0o777 == 0o600


def test_a_value_shows_only_when_asked_for(kbs: Run, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(KEY)
    text = base64.b64encode(KEY).decode()
    outputs = [kbs("secret", "set", "k", "--from-file", str(file)), kbs("secret", "show", "k")]
    outputs += [kbs("secret", "list"), kbs("secret", "show", "k", "-o", "json")]
    for done in outputs:
        assert done.returncode == 0
        assert text[:20] not in done.stdout + done.stderr
    assert json.loads(kbs("secret", "show", "k", "--reveal", "-o", "json").stdout)["value"] == text


def test_a_policy_that_allows_everything_is_pointed_out(kbs: Run) -> None:
    assert "allows every launch" in kbs("policy", "set", "open").stderr


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["secret", "show", "nope"], 4, "no secret 'nope'"),
        (["secret", "set", "k", "--from-file", "/nowhere"], 4, "no file '/nowhere'"),
        (["secret", "set", "k", "--from-file", "-"], 2, "a secret has 1 to 676 bytes, this one 0"),
        (["secret", "set", "k", "--from-file", "/dev/zero"], 2, "a secret has 1 to 676 bytes"),
        (["secret", "set", "k", "--from-file", "/"], 1, "cannot read '/'"),
        (["keyset", "set", "K", "--secret", "nope"], 4, "no secret 'nope'"),
        (["policy", "set", "p", "--digest", "xyz"], 2, "not a launch digest"),
        (["policy", "set", "p", "--digest", "AAAA"], 2, "not a launch digest"),
        (["policy", "set", "p", "--allow-policy", "many"], 2, "not a policy"),
        (["policy", "set", "p", "--allow-policy", "4294967296"], 2, "does not fit 32 bits"),
        (["policy", "set", "p", "--min-api", "1"], 2, "not MAJOR.MINOR"),
        (["policy", "set", "p", "--min-api", "1.256"], 2, "not a number from 0 to 255"),
        (["policy", "set", "p", "--build-id", "-1"], 2, "not a number from 0 to 255"),
        (["policy", "set", "10"], 2, "a policy name is not a number"),
        (["serve", "--trust-ark", "zz"], 2, "not a SHA-256"),
        (["serve", "--no-amd-roots"], 2, "no root is trusted"),
        (["serve", "--listen", "nowhere"], 2, "not HOST:PORT"),
        (["serve", "--default-policy", "/nowhere"], 4, "no file '/nowhere'"),
        (["nonsense"], 2, "invalid choice"),
        ([], 2, "COMMAND"),
    ],
)
def test_mistakes(kbs: Run, arguments: list[str], status: int, text: str) -> None:
    done = kbs(*arguments)
    assert (done.returncode, done.stdout) == (status, ""), done
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_one_long_value_does_not_widen_a_table(kbs: Run) -> None:
    name = "n" * 200
    kbs("policy", "set", name)
    kbs("policy", "set", "p", *(word for at in range(3) for word in ("--digest", f"{at:064x}")))
    lines = kbs("policy", "list").stdout.splitlines()
    assert max(len(one) for one in lines if not one.startswith(name)) < 220
    assert lines[1].split()[0] == name  # what other verbs take is whole
    assert "..." in lines[2]
    everything = json.loads(kbs("policy", "list", "-o", "json").stdout)["policies"]
    assert len(everything[1]["digests"]) == 3


def test_no_database_named(kbs: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEALPOD_KBS_DATABASE")
    done = kbs("secret", "list")
    assert done.returncode == 2
    assert "--database" in done.stderr


def test_help_needs_no_database(kbs: Run) -> None:
    done = kbs("policy", "set", "--help")
    assert done.returncode == 0
    assert "--digest" in done.stdout


def test_help_imports_neither_database_nor_server() -> None:
    """Every parser is made for any help, of whichever noun."""
    program = (
        "import argparse, sys; from sealpod.cli import kbs;"
        "kbs.add_arguments(argparse.ArgumentParser());"
        "print(*sorted({'sqlalchemy', 'grpc', 'starlette', 'cryptography', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
