# SPDX-License-Identifier: Apache-2.0
"""Standard streams that are full, closed, or take not every character."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MAIN = (sys.executable, "-m", "sealpod.cli.main")
PAGE = ("sev", "vmsa", "build", "--cpu", "0", "--userspace", "qemu")


def shell(command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run ``command``, in which ``sealpod`` is the program under test."""
    script = command.replace("sealpod ", " ".join(MAIN) + " ")
    env = {**os.environ, "PYTHONUNBUFFERED": "", **environment}
    return subprocess.run(["sh", "-c", script], cwd=cwd, capture_output=True, env=env, check=False)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_for_the_output_is_an_error_in_one_line(tmp_path: Path, unbuffered: str) -> None:
    command = f"sealpod {' '.join(PAGE)} -o json page > /dev/full"
    ended = shell(command, tmp_path, PYTHONUNBUFFERED=unbuffered)
    assert ended.returncode == 1
    text = "sealpod: error: cannot write the output: No space left on device; make room where it goes"
    assert ended.stderr.decode() == f"{text} [output.failed]\n"


def test_a_full_disk_for_notes_stops_nothing(tmp_path: Path) -> None:
    ended = shell(f"sealpod {' '.join(PAGE[:-3])} 1 --userspace qemu -o json page 2> /dev/full", tmp_path)
    assert ended.returncode == 0
    assert json.loads(ended.stdout)["file"] == "page"
    assert shell("sealpod sev cert show missing 2> /dev/full", tmp_path).returncode == 4


def test_notes_do_not_get_into_the_output_when_standard_error_is_closed(tmp_path: Path) -> None:
    ended = shell(f"sealpod {' '.join(PAGE[:-3])} 1 --userspace qemu -o json page 2>&-", tmp_path)
    assert ended.returncode == 0
    assert json.loads(ended.stdout)["file"] == "page"


def test_closed_streams_do_not_become_the_files_of_a_command(tmp_path: Path) -> None:
    ended = shell("sealpod sev generate oca.cert oca.key <&- >&- 2>&-", tmp_path)
    assert ended.returncode == 0
    assert (tmp_path / "oca.cert").stat().st_size == 2084
    assert (tmp_path / "oca.key").stat().st_size == 167


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("utf-8:strict", b"\xff\xfe"), ("ascii", b"\\udcff\\udcfe"), ("latin-1", b"\\udcff\\udcfe")],
)
def test_a_name_that_is_no_text_is_printed_as_it_can_be(tmp_path: Path, encoding: str, name: bytes) -> None:
    command = (
        "sealpod sev generate oca.cert oca.key && sealpod sev cert split oca.cert $(printf '\\377\\376')"
    )
    (tmp_path / os.fsdecode(b"\xff\xfe")).mkdir()
    ended = shell(command, tmp_path, PYTHONIOENCODING=encoding)
    assert ended.returncode == 0, ended.stderr.decode()
    assert ended.stdout.splitlines()[-1] == name + b"/oca.cert"
