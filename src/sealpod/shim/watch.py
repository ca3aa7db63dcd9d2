# SPDX-License-Identifier: Apache-2.0
"""Notice changes of a directory with inotify(7), which wakes nobody while nothing happens.

kubelet changes a volume by renaming a symbolic link in its top directory; that directory is what is watched.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Awaitable, Callable
from typing import Final

# linux/inotify.h
IN_CLOSE_WRITE: Final = 0x8
IN_MOVED_TO: Final = 0x80
IN_CREATE: Final = 0x100
CHANGES: Final = IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE
SETTLE_SECONDS: Final = 0.2
"""A volume changes in several steps; one refresh is for all of them."""


class Watch:
    """Calls ``refresh`` after changes in ``directory``, one call at a time, until closed."""

    def __init__(self, directory: str, refresh: Callable[[], Awaitable[None]]) -> None:
        self._refresh = refresh
        self._task: asyncio.Task[None] | None = None
        self._again = False
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        if libc.inotify_add_watch(self._descriptor, os.fsencode(directory), CHANGES) < 0:
            number = ctypes.get_errno()
            os.close(self._descriptor)
            raise OSError(number, os.strerror(number))
        asyncio.get_running_loop().add_reader(self._descriptor, self._changed)

    def close(self) -> None:
        """Stop watching."""
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
        if self._task is not None:
            self._task.cancel()

    def _changed(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, 65536)
        self._again = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self._again:
            await asyncio.sleep(SETTLE_SECONDS)
            self._again = False
            # A copy that fails (the guest is going, a file vanished) is tried again at the next change.
            with contextlib.suppress(Exception):
                await self._refresh()
