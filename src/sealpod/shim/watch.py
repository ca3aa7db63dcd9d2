# SPDX-License-Identifier: Apache-2.0
"""Notice changes of directories with inotify(7), which wakes nobody while nothing happens.

kubelet changes a volume by renaming a symbolic link in its top directory; that directory is what is watched.

A user has 128 instances of inotify (``fs.inotify.max_user_instances``), and root has kubelet's and everybody
else's among them: so one serves a whole pod, and where there is none left directories are looked at every few
seconds instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import struct
from collections.abc import Awaitable, Callable
from typing import Final

# linux/inotify.h
IN_CLOSE_WRITE: Final = 0x8
IN_MOVED_TO: Final = 0x80
IN_CREATE: Final = 0x100
CHANGES: Final = IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE
OVERFLOWN: Final = -1  # the number of the watch when events were lost
_EVENT: Final = struct.Struct("iIII")  # watch, mask, cookie, bytes of the name that follows
READ_SIZE: Final = 65536
SETTLE_SECONDS: Final = 0.2
"""A volume changes in several steps; one refresh is for all of them."""
LOOK_SECONDS: Final = 10.0  # between looks where inotify has nothing to give

_logger = logging.getLogger(__name__)


class Watch:
    """Calls ``refresh`` after changes of one directory, one call at a time, until closed."""

    def __init__(self, refresh: Callable[[], Awaitable[None]], closing: Callable[[Watch], None]) -> None:
        self.looking: asyncio.Task[None] | None = None
        self._refresh = refresh
        self._closing = closing
        self._task: asyncio.Task[None] | None = None
        self._again = False

    def changed(self) -> None:
        """The directory has changed."""
        self._again = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    def close(self) -> None:
        """Stop watching."""
        self._closing(self)
        for task in (self._task, self.looking):
            if task is not None:
                task.cancel()

    async def _run(self) -> None:
        while self._again:
            await asyncio.sleep(SETTLE_SECONDS)
            self._again = False
            # A copy that fails (the guest is going, a file vanished) is tried again at the next change.
            with contextlib.suppress(Exception):
                await self._refresh()


class Watcher:
    """Watches the directories of one pod. Close every watch, then it holds nothing."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = -1
        self._watches: dict[int, list[Watch]] = {}  # by the kernel's number, which is one per directory

    def watch(self, directory: str, refresh: Callable[[], Awaitable[None]]) -> Watch:
        """Call ``refresh`` after changes in ``directory``. OSError if there is no such directory."""
        watch = Watch(refresh, self._forget)
        before = os.stat(directory).st_mtime_ns
        try:
            self._watches.setdefault(self._add(directory), []).append(watch)
        except OSError as error:
            self._release()
            _logger.warning(
                "%s is looked at every %g s, as inotify gives no watch: %s",
                directory,
                LOOK_SECONDS,
                error.strerror,
            )
            watch.looking = asyncio.create_task(_look(directory, before, watch))
        return watch

    def _add(self, directory: str) -> int:
        if self._descriptor < 0:
            descriptor: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
            if descriptor < 0:
                raise _last_error()
            self._descriptor = descriptor
            asyncio.get_running_loop().add_reader(descriptor, self._read)
        number: int = self._libc.inotify_add_watch(self._descriptor, os.fsencode(directory), CHANGES)
        if number < 0:
            raise _last_error()
        return number

    def _read(self) -> None:
        data = b""
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._descriptor, READ_SIZE)
        numbers, position = set(), 0
        while position < len(data):
            number, _, _, length = _EVENT.unpack_from(data, position)
            numbers.add(number)
            position += _EVENT.size + length
        for number, watches in self._watches.items():
            if number in numbers or OVERFLOWN in numbers:
                for watch in watches:
                    watch.changed()

    def _forget(self, watch: Watch) -> None:
        for number, watches in list(self._watches.items()):
            if watch in watches:
                watches.remove(watch)
                if not watches:
                    del self._watches[number]
                    self._libc.inotify_rm_watch(self._descriptor, number)
        self._release()

    def _release(self) -> None:
        """Give the instance back when nothing is watched."""
        if self._descriptor >= 0 and not self._watches:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


async def _look(directory: str, before: int, watch: Watch) -> None:
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        with contextlib.suppress(OSError):
            now = os.stat(directory).st_mtime_ns
            if now != before:
                before = now
                watch.changed()


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
