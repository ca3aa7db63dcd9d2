# SPDX-License-Identifier: Apache-2.0
"""Cutting ELF files behind their last segment; the interpreter running these tests is one that must survive
it."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError
from sealpod.guestimage import elf


def sample(*segments: tuple[int, int], tail: bytes = b"symbols") -> bytes:
    """A header, program headers of these file offsets and sizes, content, and something behind it."""
    header = elf.MAGIC.ljust(32, b"\0") + struct.pack(
        "<QQIHHHHHH", 64, 4096, 0, 64, 56, len(segments), 64, 9, 8
    )
    table = b"".join(struct.pack("<IIQQQQQQ", 1, 5, offset, 0, 0, size, size, 1) for offset, size in segments)
    end = max([64 + len(table), *(offset + size for offset, size in segments)])
    return (header + table).ljust(end, b"x") + tail


def test_what_follows_the_last_segment_goes() -> None:
    data = sample((0, 200), (300, 100), (250, 10))
    short = elf.segments_only(data)
    assert len(short) == 400
    assert short[64:] == data[64:400]
    assert short[40:48] == bytes(8)
    assert short[60:64] == bytes(4)
    assert elf.segments_only(short) == short


@given(st.integers(0, 399))
def test_every_truncation_is_refused(length: int) -> None:
    with pytest.raises(DecodeError):
        elf.segments_only(sample((0, 200), (300, 100), tail=b"")[:length])


@given(st.binary(max_size=200))
def test_other_bytes_raise_decode_error_only(data: bytes) -> None:
    with pytest.raises(DecodeError):
        elf.segments_only(elf.MAGIC + data)


def test_a_library_of_this_machine_still_loads(tmp_path: Path) -> None:
    import _cffi_backend  # a compiled module of a dependency, with section headers

    original = Path(_cffi_backend.__file__)
    target = tmp_path / original.name
    target.write_bytes(elf.segments_only(original.read_bytes()))
    assert target.stat().st_size <= original.stat().st_size
    code = "import _cffi_backend; print(_cffi_backend.__file__)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]},
    )
    assert done.stdout.strip() == str(target)


@pytest.mark.skipif(shutil.which("cat") is None or sys.platform != "linux", reason="needs a program to cut")
def test_a_program_of_this_machine_still_runs(tmp_path: Path) -> None:
    source = Path(shutil.which("cat") or "")
    if not elf.is_elf(source.read_bytes()[:64]):
        pytest.skip("cat is no 64-bit ELF program here")
    target = tmp_path / "cat"
    target.write_bytes(elf.segments_only(source.read_bytes()))
    target.chmod(0o755)
    assert subprocess.run([target], input=b"through", capture_output=True, check=True).stdout == b"through"
