# SPDX-License-Identifier: Apache-2.0
"""Measured files: what is hashed, and what is none."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from sealpod.errors import NotFoundError, UsageError
from sealpod.sandbox.measuredfiles import hash_file


def test_a_file_is_hashed(tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(b"kernel")
    assert hash_file(str(tmp_path / "kernel"), "kernel") == hashlib.sha256(b"kernel").digest()


def test_what_has_no_end_or_no_writer_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", str(tmp_path / "pipe"), str(tmp_path)):
        with pytest.raises(UsageError, match=f"kernel {path} is no regular file") as caught:
            hash_file(path, "kernel")
        assert caught.value.code == "guest.not-a-file"


def test_what_cannot_be_read_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        hash_file(str(tmp_path / "missing"), "initrd")
    assert caught.value.code == "guest.missing"
