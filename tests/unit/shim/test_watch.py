# SPDX-License-Identifier: Apache-2.0
"""Watching directories: one instance of inotify for all of a pod, and what is done when there is none."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sealpod.shim import watch
from sealpod.shim.watch import Watcher


class Told:
    """How often a directory's change was told."""

    def __init__(self) -> None:
        self.count = 0
        self._news = asyncio.Event()

    async def refresh(self) -> None:
        self.count += 1
        self._news.set()

    async def more(self) -> None:
        async with asyncio.timeout(20):
            await self._news.wait()
        self._news.clear()


def instances() -> int:
    """Of inotify, in this process."""
    links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    return sum("inotify" in os.readlink(link) for link in links if os.path.lexists(link))


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Watcher], Awaitable[None]]], None]:
    monkeypatch.setattr(watch, "SETTLE_SECONDS", 0.01)
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.01)

    def run(scenario: Callable[[Watcher], Awaitable[None]]) -> None:
        async def whole() -> None:
            await scenario(Watcher())

        asyncio.run(whole())
        assert instances() == 0

    return run


def test_one_instance_for_many_directories(
    play: Callable[[Callable[[Watcher], Awaitable[None]]], None], tmp_path: Path
) -> None:
    async def scenario(watcher: Watcher) -> None:
        places = [tmp_path / str(number) for number in range(5)]
        told = [Told() for _ in range(6)]
        for place in places:
            place.mkdir()
        # Two containers may have the same volume.
        watches = [
            watcher.watch(str(place), one.refresh)
            for place, one in zip([*places, places[0]], told, strict=True)
        ]
        assert instances() == 1
        (places[0] / "new").touch()
        await told[0].more()
        await told[5].more()
        watches[0].close()
        (places[0] / "newer").touch()
        (places[4] / "new").touch()
        await told[5].more()
        await told[4].more()
        assert [one.count for one in told[:4]] == [1, 0, 0, 0]
        for one in watches[1:]:
            one.close()

    play(scenario)


def test_without_an_instance_directories_are_looked_at(
    play: Callable[[Callable[[Watcher], Awaitable[None]]], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def none_left(_self: Watcher, _directory: str) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Watcher, "_add", none_left)

    async def scenario(watcher: Watcher) -> None:
        told = Told()
        made = watcher.watch(str(tmp_path), told.refresh)
        (tmp_path / "new").touch()
        await told.more()
        made.close()
        with pytest.raises(FileNotFoundError):
            watcher.watch(str(tmp_path / "none"), told.refresh)

    play(scenario)
    assert "inotify gives no watch: Too many open files" in caplog.text


def test_a_directory_that_goes_while_it_is_watched(
    play: Callable[[Callable[[Watcher], Awaitable[None]]], None], tmp_path: Path
) -> None:
    async def scenario(watcher: Watcher) -> None:
        gone, stays = tmp_path / "gone", tmp_path / "stays"
        told = Told()
        for place in (gone, stays):
            place.mkdir()
        watches = [watcher.watch(str(place), told.refresh) for place in (gone, stays)]
        gone.rmdir()
        (stays / "new").touch()
        await told.more()
        for one in watches:
            one.close()

    play(scenario)
