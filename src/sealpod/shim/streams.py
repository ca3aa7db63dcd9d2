# SPDX-License-Identifier: Apache-2.0
"""A process's streams on the host: containerd's FIFOs, or a file for output.

Outputs are opened for reading and writing, so that a containerd that restarts finds its FIFO alive and we
never get EPIPE. Nothing is buffered here: when nobody reads, the FIFO fills, and the guest waits.

A stream is closed by the task that uses it, never under it: the kernel gives the number away at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Final
from urllib.parse import urlsplit

from sealpod.errors import UsageError

READ_SIZE: Final = 65536  # bytes of input per message, which is what a FIFO holds


class Output:
    """Where one output stream goes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.written = 0
        """Bytes so far, to see whether anybody reads."""
        self.blocked = False
        """Nobody takes what is to be written."""

    @classmethod
    def open(cls, address: str) -> Output:
        """The stream at a path or URI. An empty one is wanted by nobody: what is written there is lost."""
        url = urlsplit(address)
        if not address:
            return cls(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC))
        if url.scheme in ("", "fifo"):
            return cls(os.open(url.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
        if url.scheme == "file":
            return cls(os.open(url.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
        raise UsageError(
            f"output cannot go to {url.scheme}:", code="shim.output", remedy="use a FIFO or file:///PATH"
        )

    async def write(self, data: bytes) -> None:
        """Write all of ``data``, waiting for a reader as long as it takes."""
        view = memoryview(data)
        while view:
            try:
                count = os.write(self._descriptor, view)
            except BlockingIOError:
                await self._room()
                continue
            self.written += count
            view = view[count:]

    def close(self) -> None:
        """The stream ends."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    async def _room(self) -> None:
        # Registered only meanwhile: idle is idle.
        loop = asyncio.get_running_loop()
        room: asyncio.Future[None] = loop.create_future()
        loop.add_writer(self._descriptor, _resolve, room)
        self.blocked = True
        try:
            await room
        finally:
            self.blocked = False
            loop.remove_writer(self._descriptor)


class Input:
    """Where a process's input comes from."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._ready: asyncio.Future[None] | None = None
        self._finishing = False

    @classmethod
    def open(cls, address: str) -> Input | None:
        """The FIFO at a path or URI; None for an empty one."""
        if not address:
            return None
        return cls(os.open(urlsplit(address).path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))

    async def read(self) -> bytes:
        """Some bytes; empty when the writers are gone, or nothing is left after :meth:`finish`.

        Waits for the first writer: a FIFO nobody has opened yet is not at its end.
        """
        loop = asyncio.get_running_loop()
        while not self._finishing:
            self._ready = loop.create_future()
            loop.add_reader(self._descriptor, _resolve, self._ready)
            try:
                await self._ready
            finally:
                loop.remove_reader(self._descriptor)
            with contextlib.suppress(BlockingIOError):
                return os.read(self._descriptor, READ_SIZE)
        with contextlib.suppress(BlockingIOError):
            return os.read(self._descriptor, READ_SIZE)
        return b""

    def finish(self) -> None:
        """What was written already is still read; then the input is at its end."""
        self._finishing = True
        if self._ready is not None:
            _resolve(self._ready)

    def close(self) -> None:
        """Stop reading."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
