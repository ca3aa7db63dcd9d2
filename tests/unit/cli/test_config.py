# SPDX-License-Identifier: Apache-2.0
"""``sealpod config check`` as a script sees it: output, warnings, exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sealpod.cli import main as cli
from sealpod.errors import AccessError, DecodeError, NotFoundError, RefusedError, UsageError
from sealpod.sandbox import configfile

POLICY = "io.katacontainers.config.sev.policy"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    lines = ["[hypervisor.qemu]", "confidential_guest = true", "sev_guest_policy = 3"]
    for name in ("firmware", "kernel", "initrd"):
        (tmp_path / name).write_bytes(b"x")
        lines.append(f'{name} = "{tmp_path / name}"')
    path = tmp_path / "configuration.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def add(file: Path, line: str) -> None:
    with file.open("a", encoding="utf-8") as out:
        out.write(line + "\n")


def check(*words: str) -> int:
    return cli.dispatch(["config", "check", *words])


def test_the_settings_are_shown_with_their_origin(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(str(file), "--strict") == 0
    out, err = capsys.readouterr()
    assert "3  (file hypervisor.qemu.sev_guest_policy)" in out
    assert "2048  (default)" in out
    assert f"{'dial_timeout':<22} 120  (default)\n" in out
    assert f"{'create_timeout':<22} 600  (default)\n" in out
    assert err == ""


def test_json_has_the_annotation_that_won(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(str(file), "-o", "json", "--annotation", f"{POLICY}=1") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schemaVersion"] == 1
    assert document["settings"]["policy"] == {"value": 1, "source": "annotation", "name": POLICY}
    assert document["settings"]["mode"]["value"] == "none"


def test_warnings_go_to_standard_error_and_fail_when_strict(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(file, "kernel_param = 'a'")
    assert check(str(file)) == 0
    assert "did you mean kernel_params?" in capsys.readouterr().err
    assert check(str(file), "--strict") == 1


def test_a_missing_file_is_reported_after_the_settings(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file.parent / "kernel").unlink()
    with pytest.raises(NotFoundError, match="there is no kernel"):
        check(str(file))
    assert "sev_guest_policy" in capsys.readouterr().out


def test_the_default_file_is_looked_up_as_kata_does(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(configfile.ENVIRONMENT, raising=False)
    monkeypatch.setattr(configfile, "LOCATIONS", (str(tmp_path / "absent"), str(file)))
    assert check() == 0
    monkeypatch.setenv(configfile.ENVIRONMENT, str(tmp_path / "named"))
    with pytest.raises(NotFoundError, match="named"):
        check()
    monkeypatch.delenv(configfile.ENVIRONMENT)
    monkeypatch.setattr(configfile, "LOCATIONS", (str(tmp_path / "absent"),))
    with pytest.raises(NotFoundError, match="absent"):
        check()


def test_what_cannot_be_read_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(AccessError):
        check(str(tmp_path))
    with pytest.raises(UsageError):
        check(str(file), "--annotation", "x")
    with pytest.raises(RefusedError):
        check(str(file), "--annotation", "io.katacontainers.config.hypervisor.kernel=/k")
    file.write_bytes(b"\xff")
    with pytest.raises(DecodeError):
        check(str(file))
    file.write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(DecodeError):
        check(str(file))
