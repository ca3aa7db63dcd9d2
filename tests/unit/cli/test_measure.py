# SPDX-License-Identifier: Apache-2.0
"""``sealpod measure`` as a script sees it: standard output and exit status."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from pathlib import Path

import pytest

from sealpod.cli import main as cli
from sealpod.errors import (
    AccessError,
    DecodeError,
    NotFoundError,
    OperationError,
    SealpodError,
    UsageError,
)

FIRMWARE = bytes(range(256)) * 8
DIGEST = hashlib.sha256(FIRMWARE).hexdigest()


@pytest.fixture
def ovmf(tmp_path: Path) -> str:
    path = tmp_path / "OVMF.fd"
    path.write_bytes(FIRMWARE)
    return str(path)


@pytest.fixture
def amdsev(tmp_path: Path) -> str:
    """A firmware that takes kernel hashes."""
    import struct
    from uuid import UUID

    area = struct.pack("<IIH", 0x810C00, 0x400, 26) + UUID("7255371f-3a3b-4b04-927b-1da6efa8d454").bytes_le
    footer = struct.pack("<H", 26 + 18) + UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
    path = tmp_path / "AMDSEV.fd"
    path.write_bytes(FIRMWARE[: -32 - 26 - 18] + area + footer + FIRMWARE[-32:])
    return str(path)


def run(*arguments: str) -> int:
    return cli.dispatch(["measure", *arguments])


def sev(*arguments: str) -> int:
    return run("--mode", "sev", *arguments)


def test_digest_in_both_formats(ovmf: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sev("--ovmf", ovmf) == 0
    assert sev("--ovmf", ovmf, "--output-format", "base64") == 0
    assert sev("--ovmf", ovmf, "-v") == 0
    assert capsys.readouterr().out.splitlines() == [
        DIGEST,
        base64.b64encode(bytes.fromhex(DIGEST)).decode(),
        f"Calculated SEV guest measurement: {DIGEST}",
    ]


def test_options_of_other_modes_are_taken_and_do_nothing(
    ovmf: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sev("--ovmf", ovmf, "--vcpus", "2", "--vcpu-type", "EPYC-v4", "--append", "") == 0
    assert capsys.readouterr().out == DIGEST + "\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--initrd", "x"], "--kernel required when using --initrd"),
        (["--append", "x"], "--kernel required when using --append"),
        (["--dump-vmsa"], "--dump-vmsa is not availibe in the selected mode"),
        (["--snp-ovmf-hash", "00"], "SNP OVMF hash only works with SNP"),
        (["--vmm-type", "EC2"], "unknown VMM type 'EC2'"),
    ],
)
def test_wrong_usage(arguments: list[str], text: str, ovmf: str) -> None:
    with pytest.raises(UsageError, match=text):
        sev("--ovmf", ovmf, *arguments)


@pytest.mark.parametrize("arguments", [[], ["--mode", "sev"], ["--mode", "tdx", "--ovmf", "x"]])
def test_missing_and_unknown_options_exit_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    assert "sealpod measure: error:" in capsys.readouterr().err


def test_files_that_cannot_be_read(ovmf: str, amdsev: str, tmp_path: Path) -> None:
    cases: list[tuple[type[SealpodError], list[str]]] = [
        (NotFoundError, ["--ovmf", str(tmp_path / "none")]),
        (NotFoundError, ["--ovmf", amdsev, "--kernel", str(tmp_path / "none")]),
        (OperationError, ["--ovmf", str(tmp_path)]),
        (OperationError, ["--ovmf", ovmf, "--kernel", ovmf]),
        (DecodeError, ["--ovmf", "/dev/null"]),
    ]
    for family, arguments in cases:
        with pytest.raises(family):
            sev(*arguments)


def test_no_permission(ovmf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(AccessError):
        sev("--ovmf", ovmf)


def test_an_error_is_one_line_and_an_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["sealpod", "measure", "--mode", "sev", "--ovmf", str(tmp_path / "none")]
    )
    assert cli.main() == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"sealpod: error: no such file: {tmp_path}/none [file.missing]\n"


def test_json_is_a_reference(amdsev: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guest = ["--ovmf", amdsev, "--kernel", amdsev]
    assert sev(*guest, "--append", "quiet panic=1", "-o", "json") == 0
    text = capsys.readouterr().out
    assert json.loads(text)["schemaVersion"] == 2
    reference = tmp_path / "reference.json"
    reference.write_text(text)

    assert sev(*guest, "--append", "quiet panic=1", "--explain", str(reference)) == 0
    assert capsys.readouterr().out == "no part differs from the reference\n"

    assert sev(*guest, "--append", "quiet panic=0", "--explain", str(reference)) == 3
    assert capsys.readouterr().out == (
        "command line differs: word 2 is 'panic=0', the reference has 'panic=1'\n"
    )

    assert (
        sev(
            *guest, "--initrd", amdsev, "--append", "quiet panic=1", "--explain", str(reference), "-o", "json"
        )
        == 3
    )
    record = json.loads(capsys.readouterr().out)
    assert (record["schemaVersion"], [each["part"] for each in record["differences"]]) == (1, ["initrd"])


def test_a_reference_that_is_none(ovmf: str) -> None:
    with pytest.raises(DecodeError):
        sev("--ovmf", ovmf, "--explain", ovmf)
    with pytest.raises(NotFoundError):
        sev("--ovmf", ovmf, "--explain", ovmf + ".none")
