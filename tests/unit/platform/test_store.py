# SPDX-License-Identifier: Apache-2.0
"""The state directory: modes, crash leftovers, and corruption that is told rather than papered over."""

from __future__ import annotations

import errno
import os
import random
import stat
from pathlib import Path

import pytest

from sealpod.errors import AccessError, FirmwareError
from sealpod.platform.model.chip import Chip, RsaSource
from sealpod.platform.model.store import StateDirectory, rsa_key
from sealpod.sev.status import Status


def refuse_rsa() -> None:
    raise AssertionError("a key was made")


def load(state_dir: str, make: RsaSource = refuse_rsa) -> Chip:  # type: ignore[assignment]
    return StateDirectory(state_dir).chip(random.Random("store").randbytes, make, lambda: None)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_everything_is_the_users_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        load(str(tmp_path / "a" / "platform"), rsa_key)
        StateDirectory(str(tmp_path / "a" / "platform")).save(b"sealed")
    finally:
        os.umask(before)
    directory = tmp_path / "a" / "platform"
    assert mode(directory) == 0o700
    assert {path.name: mode(path) for path in directory.iterdir()} == {
        "chip": 0o600,
        "identity": 0o600,
        "lock": 0o600,
    }


def test_an_existing_chip_is_loaded_and_no_key_made(state_dir: str, chip: Chip) -> None:
    assert load(state_dir) == chip


@pytest.mark.parametrize("permissions", [0o750, 0o701, 0o777])
def test_a_directory_others_can_enter_is_refused(state_dir: str, permissions: int) -> None:
    os.chmod(state_dir, permissions)
    with pytest.raises(AccessError) as caught:
        load(state_dir)
    assert caught.value.code == "platform.state-access"
    assert "chmod 700" in caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"short", bytes(5364), bytes(5365), bytes(1 << 20)])
def test_a_corrupt_chip_is_reported_and_left_alone(state_dir: str, content: bytes) -> None:
    path = Path(state_dir, "chip")
    path.write_bytes(content)
    with pytest.raises(FirmwareError) as caught:
        load(state_dir)
    assert caught.value.status == Status.SECURE_DATA_INVALID
    assert str(path) in caught.value.message
    assert "move" in caught.value.remedy
    assert path.read_bytes() == content


def test_one_changed_bit_of_the_chip_is_noticed(state_dir: str) -> None:
    path = Path(state_dir, "chip")
    record = bytearray(path.read_bytes())
    record[4000] ^= 0x10
    path.write_bytes(record)
    with pytest.raises(FirmwareError, match="MAC"):
        load(state_dir)


def test_what_a_crashed_writer_left_does_not_matter(state_dir: str) -> None:
    Path(state_dir, "identity.new").write_bytes(b"half")
    store = StateDirectory(state_dir)
    store.save(b"whole")
    assert store.load() == b"whole"
    assert not Path(state_dir, "identity.new").exists()


def test_a_full_disk_leaves_the_old_content_and_nothing_beside_it(
    state_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StateDirectory(state_dir)
    store.save(b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("sealpod.platform.model.store.os.fsync", full)
    before = sorted(os.listdir(state_dir))
    with pytest.raises(OSError, match="No space"):
        store.save(b"new")
    assert store.load() == b"old"
    assert sorted(os.listdir(state_dir)) == before


def test_a_file_is_no_state_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "file").chmod(0o600)
    with pytest.raises(AccessError, match="is no directory"):
        StateDirectory(str(tmp_path / "file"))


def test_erase_is_idempotent(state_dir: str) -> None:
    store = StateDirectory(state_dir)
    store.save(b"x")
    store.erase()
    store.erase()
    assert store.load() is None


def test_a_new_chip_drops_the_identity_of_a_lost_one(state_dir: str) -> None:
    StateDirectory(state_dir).save(b"of the lost chip")
    Path(state_dir, "chip").unlink()
    load(state_dir, rsa_key)
    assert StateDirectory(state_dir).load() is None
