# SPDX-License-Identifier: Apache-2.0
"""The archive writer against its own reader, against the format's rules, and against GNU cpio where it is
installed."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError, UsageError
from sealpod.guestimage import cpio

ENTRIES = (
    cpio.directory("bin"),
    cpio.file("bin/tool", b"#!", 0o755),
    cpio.symlink("bin/sh", "tool"),
    cpio.directory("dev"),
    cpio.character_device("dev/console", 5, 1),
    cpio.file("empty", b""),
    cpio.file("odd", b"abcde"),
)


def archive(*entries: cpio.Entry) -> bytes:
    out = io.BytesIO()
    size = cpio.write(entries, out)
    assert size == len(out.getvalue())
    return out.getvalue()


def test_one_file_byte_by_byte() -> None:
    header = "07070100000001000081A4" + "00000000" * 2 + "000000010000000000000002" + "00000000" * 4
    header += "0000000200000000"
    assert archive(cpio.file("a", b"xy"))[:116] == header.encode() + b"a\0" + b"xy\0\0"


def test_bytes_do_not_depend_on_the_order_or_dates(tmp_path: Path) -> None:
    first = tmp_path / "first"
    first.write_bytes(b"content")
    copied = archive(*reversed(ENTRIES), cpio.copy("z", str(first)))
    first.touch()
    assert copied == archive(*ENTRIES, cpio.file("z", b"content"))
    assert len(copied) % cpio.BLOCK == 0


@pytest.mark.skipif(shutil.which("cpio") is None, reason="GNU cpio is not installed")
def test_gnu_cpio_reads_it() -> None:
    done = subprocess.run(
        ["cpio", "--list", "--verbose", "--numeric-uid-gid", "--quiet"],
        input=archive(*ENTRIES),
        capture_output=True,
        check=True,
        env={"TZ": "UTC", "LC_ALL": "C", "PATH": "/usr/bin:/bin"},
    )
    lines = [line.split() for line in done.stdout.decode().splitlines()]
    assert [line[0] for line in lines] == [
        *("drwxr-xr-x", "lrwxrwxrwx", "-rwxr-xr-x", "drwxr-xr-x", "crw-------", "-rw-r--r--", "-rw-r--r--")
    ]
    assert {tuple(line[2:4]) for line in lines} == {("0", "0")}
    assert all("1970" in line for line in lines)


@given(st.dictionaries(st.text("ab.-_é", min_size=1, max_size=8), st.binary(max_size=40), max_size=6))
def test_every_file_is_found_again(files: dict[str, bytes]) -> None:
    names = {name: data for name, data in files.items() if name not in (".", "..")}
    data = archive(*(cpio.file(name, content) for name, content in names.items()))
    for name, content in names.items():
        assert cpio.find(io.BytesIO(data), name) == content
    assert cpio.find(io.BytesIO(data), "missing") is None


@pytest.mark.parametrize("path", ["", "/a", "a/", "./a", "../a", "a//b", "a\0b", "TRAILER!!!", "no/parent"])
def test_paths_that_are_refused(path: str) -> None:
    with pytest.raises(UsageError) as caught:
        archive(cpio.file(path, b""))
    assert caught.value.code == "cpio.path"


def test_a_repeated_path_is_refused() -> None:
    with pytest.raises(UsageError):
        archive(cpio.file("a", b""), cpio.file("a", b""))


def test_a_file_is_no_directory() -> None:
    with pytest.raises(UsageError):
        archive(cpio.file("a", b""), cpio.file("a/b", b""))


@given(st.integers(0, 700))
def test_truncation_is_refused_or_finds_nothing(length: int) -> None:
    data = archive(*ENTRIES)[:length]
    with contextlib.suppress(DecodeError):
        assert cpio.find(io.BytesIO(data), "odd") in (None, b"abcde")


@given(st.binary(max_size=300))
def test_other_bytes_raise_decode_error_only(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        assert cpio.find(io.BytesIO(data), "a") is None


def test_a_huge_name_is_not_read() -> None:
    data = bytearray(archive(cpio.file("a", b"")))
    data[94:102] = b"FFFFFFFF"
    with pytest.raises(DecodeError):
        cpio.find(io.BytesIO(bytes(data)), "a")
