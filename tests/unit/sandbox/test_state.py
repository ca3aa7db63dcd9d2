# SPDX-License-Identifier: Apache-2.0
"""A sandbox's directory, and cleaning up after a shim that was killed."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealpod.errors import ConflictError, NotFoundError, UsageError
from sealpod.sandbox import state
from sealpod.sandbox.cleanup import clean_up
from sealpod.sandbox.state import SandboxState


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(state.ENVIRONMENT, str(tmp_path))
    return tmp_path / "sandboxes"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_what_was_written_is_read_and_is_the_owners_alone(run: Path) -> None:
    place = SandboxState("a1")
    place.create()
    place.write({"id": "a1"})
    place.write_console(["one", "two"])
    assert place.read() == {"schemaVersion": 1, "id": "a1"}
    assert place.console() == ["one", "two"]
    assert state.sandbox_ids() == ["a1"]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (run / "a1", *(run / "a1").iterdir())}
    assert modes == {"a1": 0o700, "sandbox.json": 0o600, "console.log": 0o600}


def test_an_id_is_no_path() -> None:
    for bad in ("", "..", "a/b", "/etc", ".hidden", "a" * 129, "a\n"):
        with pytest.raises(UsageError):
            SandboxState(bad)


def test_two_sandboxes_of_one_id_are_a_conflict() -> None:
    SandboxState("a1").create()
    with pytest.raises(ConflictError):
        SandboxState("a1").create()


def test_a_record_that_is_none_reads_as_nothing(run: Path) -> None:
    place = SandboxState("a1")
    with pytest.raises(NotFoundError):
        place.read()
    place.create()
    assert place.read() == {}
    for text in ("", "{", "[]", '{"schemaVersion": 2}'):
        (run / "a1" / "sandbox.json").write_text(text)
        assert place.read() == {}


def record(process: subprocess.Popen[bytes], *, older: int = 0) -> None:
    place = SandboxState("a1")
    place.create()
    entry = state.process_record(process.pid)
    entry["started"] -= older
    place.write(
        {"processes": {"qemu": entry}, "netns": "/run/netns/gone", "interfaces": [{"tap": "tap0_kata"}]}
    )


def test_recorded_processes_are_killed(run: Path, sleeper: subprocess.Popen[bytes]) -> None:
    record(sleeper)
    clean_up("a1")
    assert sleeper.wait(10) == -9
    assert list(run.iterdir()) == []
    clean_up("a1")
    clean_up("../..")


def test_a_process_that_took_over_the_number_lives(run: Path, sleeper: subprocess.Popen[bytes]) -> None:
    record(sleeper, older=1)
    clean_up("a1")
    assert sleeper.poll() is None
    assert list(run.iterdir()) == []


def test_nonsense_in_a_record_harms_nobody(run: Path) -> None:
    for processes in (None, [], {"qemu": 1}, {"qemu": {"pid": 1, "started": 1}}, {"qemu": {"pid": -1}}):
        SandboxState("a1").create()
        (run / "a1" / "sandbox.json").write_text(
            json.dumps(
                {"schemaVersion": 1, "processes": processes, "interfaces": [1, {"tap": "eth0"}], "netns": "/"}
            )
        )
        clean_up("a1")
        assert list(run.iterdir()) == []


def test_a_process_is_told_by_its_start(sleeper: subprocess.Popen[bytes]) -> None:
    entry = state.process_record(sleeper.pid)
    assert state.is_alive(entry)
    assert state.is_alive(state.process_record(os.getpid()))
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert not state.is_alive(entry)  # a zombie
    assert not state.is_alive(None)
