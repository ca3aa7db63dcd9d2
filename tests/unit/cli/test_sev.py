# SPDX-License-Identifier: Apache-2.0
"""``sealpod sev export``: files as sevctl orders them, the fingerprint a broker wants, and clear refusals."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest

from sealpod.cli.main import dispatch
from sealpod.errors import AccessError, NotFoundError, OperationError
from sealpod.sev.chain import Chain


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("sev") / "platform")


def export(state: str, destination: Path, *options: str) -> int:
    return dispatch(["sev", "export", "--platform-state", state, *options, str(destination)])


def test_full_export_is_a_chain_and_its_root_is_named(
    state: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "chain.cert"
    assert export(state, target, "--full") == 0
    data = target.read_bytes()
    assert len(data) == 11536
    assert Chain.decode(data).encode() == data
    out, err = capsys.readouterr()
    assert hashlib.sha256(data[-1600:]).hexdigest() in out
    assert "model" in out
    assert "software model" in err
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["chain.cert"]


def test_short_export_is_the_start_of_the_full_one(state: str, tmp_path: Path) -> None:
    export(state, tmp_path / "full", "-f", "--platform", "model")
    export(state, tmp_path / "short")
    short = (tmp_path / "short").read_bytes()
    assert len(short) == 8336
    assert (tmp_path / "full").read_bytes()[:8336] == short


def test_json_output(state: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "full"
    export(state, target, "--full", "-o", "json")
    report = json.loads(capsys.readouterr().out)
    assert report["schemaVersion"] == 1
    assert report["platform"] == "model"
    assert report["arkSha256"] == hashlib.sha256(target.read_bytes()[-1600:]).hexdigest()
    assert report["firmware"] == {"api": "0.24", "build": 15}
    assert len(bytes.fromhex(report["identifier"])) == 64
    assert report["file"] == str(target)
    assert report["certificates"] == ["PDH", "PEK", "OCA", "CEK", "ASK", "ARK"]


def test_a_machine_without_the_device_is_told_so(tmp_path: Path) -> None:
    if os.path.exists("/dev/sev"):
        pytest.skip("this machine has /dev/sev")
    with pytest.raises(NotFoundError, match=r"^unable to open /dev/sev: ") as caught:
        dispatch(["sev", "export", "--platform", "device", str(tmp_path / "x")])
    assert "sealpod sev ok" in caught.value.remedy
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_replaced_and_kept_when_that_fails(state: str, tmp_path: Path) -> None:
    target = tmp_path / "chain"
    target.write_bytes(b"old")
    export(state, target)
    assert len(target.read_bytes()) == 8336
    (tmp_path / "directory").mkdir()
    with pytest.raises(OperationError):
        export(state, tmp_path / "directory")
    assert sorted(os.listdir(tmp_path)) == ["chain", "directory"]


def test_a_missing_directory_is_told(state: str, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        export(state, tmp_path / "missing" / "chain")
    assert caught.value.remedy


def test_an_open_state_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    os.chmod(tmp_path / "state", 0o755)
    with pytest.raises(AccessError):
        export(str(tmp_path / "state"), tmp_path / "chain")
