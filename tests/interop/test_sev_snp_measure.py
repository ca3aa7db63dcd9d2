# SPDX-License-Identifier: Apache-2.0
"""The launch digest equals that of sev-snp-measure (PyPI) for the same files, by API and by command line."""

from __future__ import annotations

import contextlib
import io
import struct
import sys
from pathlib import Path
from unittest import mock
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealpod.cli import main as cli
from sealpod.measure.components import Components

guest = pytest.importorskip("sevsnpmeasure.guest")
tool = pytest.importorskip("sevsnpmeasure.cli")

HASHES = UUID("7255371f-3a3b-4b04-927b-1da6efa8d454")
FOOTER = UUID("96b582de-1fb2-45f7-baea-a366c55a082d")

sizes = st.integers(0, 5000)
contents = st.tuples(sizes, st.integers(0, 255)).map(lambda pair: bytes([pair[1]]) * pair[0]) | st.binary(
    max_size=64
)
cmdlines = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def with_hashes(body: bytes) -> bytes:
    area = struct.pack("<IIH", 0x810C00, 0x400, 26) + HASHES.bytes_le
    footer = struct.pack("<H", len(area) + 18) + FOOTER.bytes_le
    return body + area + footer + bytes(32)


class Files:
    """Files with fixed names that each example overwrites."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, name: str, data: bytes | None) -> str:
        if data is None:
            return ""
        path = self._directory / name
        path.write_bytes(data)
        return str(path)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@shared
@given(body=contents, kernel=contents, initrd=st.none() | contents, cmdline=st.none() | cmdlines)
def test_with_a_kernel(
    files: Files, body: bytes, kernel: bytes, initrd: bytes | None, cmdline: str | None
) -> None:
    firmware = with_hashes(body)
    expected = guest.sev_calc_launch_digest(
        files.put("ovmf", firmware), files.put("kernel", kernel), files.put("initrd", initrd), cmdline
    )
    assert Components.of(firmware, kernel, initrd, cmdline).digest == expected.hex()


@shared
@given(firmware=st.binary(min_size=50, max_size=300))
def test_the_firmware_alone(files: Files, firmware: bytes) -> None:
    expected = guest.sev_calc_launch_digest(files.put("ovmf", firmware), "", "", "")
    assert Components.of(firmware, None, None, None).digest == expected.hex()


def output(entry: object, program: list[str]) -> tuple[int, str]:
    out = io.StringIO()
    with mock.patch.object(sys, "argv", program), contextlib.redirect_stdout(out):
        status = entry()  # type: ignore[operator]
    return status, out.getvalue()


@pytest.mark.parametrize(
    "style", [[], ["-v"], ["--output-format", "base64"], ["--output-format=base64", "--verbose"]]
)
def test_the_command_lines_print_the_same(style: list[str], files: Files) -> None:
    options = ["--mode", "sev", "--ovmf", files.put("ovmf", with_hashes(b"firmware" * 100))]
    kernel = [
        "--kernel",
        files.put("kernel", b"k" * 999),
        "--initrd",
        files.put("initrd", b"i"),
        "--append",
        "a b",
    ]
    for arguments in (options + style, options + kernel + style):
        theirs = output(tool.main, ["sev-snp-measure", *arguments])
        assert output(cli.main, ["sealpod", "measure", *arguments]) == theirs
        assert theirs[0] == 0


@pytest.mark.parametrize(
    ("firmware", "kernel"), [(b"no table here" * 10, b"k"), (with_hashes(b"")[:-32] + b"x" * 32, None)]
)
def test_exit_statuses_are_the_same(
    firmware: bytes, kernel: bytes | None, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--mode", "sev", "--ovmf", files.put("ovmf", firmware)]
    if kernel is not None:
        arguments += ["--kernel", files.put("kernel", kernel)]
    theirs, ours = output(tool.main, ["x", *arguments]), output(cli.main, ["sealpod", "measure", *arguments])
    assert ours == theirs
    messages = capsys.readouterr().err.splitlines()
    if kernel is not None:
        text = messages[0].removeprefix("Error: ")
        assert text in messages[1]
