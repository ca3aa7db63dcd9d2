# SPDX-License-Identifier: Apache-2.0
"""Volumes are mounted where their directory is, whatever a container puts at its path meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sealpod.agent import confined, storage, syscalls
from sealpod.agent.namespaces import in_thread
from sealpod.wire.agentapi import MESSAGES

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")

CLONE_NEWNS = 0x20000
MS_REC = 0x4000


def own_mounts(work: Callable[[], None]) -> None:
    """Do ``work`` with mounts that end with it."""

    def inside() -> None:
        syscalls.unshare(CLONE_NEWNS)
        syscalls.mount("none", "/", "", MS_REC | syscalls.MS_PRIVATE)
        work()

    in_thread(inside, "mount")


def mounts() -> dict[str, str]:
    """Flags by mount point, as this thread sees them."""
    with open("/proc/thread-self/mounts", encoding="utf-8") as file:
        return {words[1]: words[3] for words in (line.split() for line in file)}


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A directory ``real`` to mount at, another with a file in it, and one that nothing may happen to."""
    for name in ("real", "elsewhere", "source"):
        (tmp_path / name).mkdir()
    (tmp_path / "source/file").write_text("content")
    return tmp_path


def swap(volume: Path) -> None:
    """What a container does between a look and a mount: another directory in its place, by a link."""
    (volume / "real").rename(volume / "moved")
    (volume / "real").symlink_to("elsewhere")


def test_memory_is_mounted_where_the_directory_went(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = syscalls.mount

    def late(*arguments: Any) -> None:
        swap(volume)
        mount(*arguments)

    def work() -> None:
        directory = confined.open_directory(f"{volume}/real", (str(volume),))
        monkeypatch.setattr(syscalls, "mount", late)
        asked = MESSAGES.new("Storage", driver="ephemeral", options=["noexec", "size=65536"])
        storage._mount_memory(asked, directory, None, 0o700)
        os.close(directory)
        found = mounts()
        assert f"{volume}/elsewhere" not in found
        assert set(found[f"{volume}/moved"].split(",")) >= {"rw", "nodev", "noexec", "size=64k"}

    own_mounts(work)


def test_a_bind_mount_has_its_flags_and_is_nowhere_else(volume: Path) -> None:
    def work() -> None:
        directory = confined.open_directory(f"{volume}/real", (str(volume),))
        swap(volume)
        source = os.open(volume / "source", os.O_PATH)
        syscalls.bind(source, directory, syscalls.MS_RDONLY | syscalls.MS_NODEV)
        os.close(directory)
        os.close(source)
        found = mounts()
        assert set(found[f"{volume}/moved"].split(",")) >= {"ro", "nodev"}
        assert f"{volume}/elsewhere" not in found
        assert (volume / "moved/file").read_text() == "content"
        (volume / "source/more").write_text("the source stays writable")

    own_mounts(work)


def test_a_bind_mount_by_path(volume: Path) -> None:
    def work() -> None:
        source = os.open(volume / "source/file", os.O_PATH)
        (volume / "file").touch()
        syscalls.bind(source, f"{volume}/file")
        os.close(source)
        assert (volume / "file").read_text() == "content"

    own_mounts(work)
