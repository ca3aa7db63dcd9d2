# SPDX-License-Identifier: Apache-2.0
"""A process's streams on the host: containerd's FIFOs, or a file for output.

Outputs are opened for reading and writing, so that a containerd that restarts finds its FIFO alive and we
never get EPIPE. Nothing is buffered here: when nobody reads, the FIFO fills, and the guest waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from sealpod.errors import UsageError

READ_SIZE: Final = 32768  # bytes of input per message


class Output:
    """Where one output stream goes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.written = 0
        """Bytes so far, to see whether anybody reads."""

    @classmethod
    def open(cls, address: str) -> Output | None:
        """The stream at a path or URI; None for an empty one, which nobody wants."""
        if not address:
            return None
        url = urlsplit(address)
        if url.scheme in ("", "fifo"):
            flags = os.O_RDWR | os.O_NONBLOCK
        elif url.scheme == "file":
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        else:
            raise UsageError(
                f"output cannot go to {url.scheme}:", code="shim.output", remedy="use a FIFO or file:///PATH"
            )
        return cls(os.open(url.path, flags | os.O_CLOEXEC, 0o600))

    async def write(self, data: bytes) -> None:
        """Write all of ``data``, waiting for a reader as long as it takes."""
        view = memoryview(data)
        while view:
            try:
                count = os.write(self._descriptor, view)
            except BlockingIOError:
                await _ready(self._descriptor, asyncio.get_running_loop().add_writer)
                continue
            self.written += count
            view = view[count:]

    def close(self) -> None:
        """The stream ends."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Input:
    """Where a process's input comes from."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def open(cls, address: str) -> Input | None:
        """The FIFO at a path or URI; None for an empty one."""
        if not address:
            return None
        return cls(os.open(urlsplit(address).path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))

    async def read(self) -> bytes:
        """Some bytes; empty when the writers are gone. Waits for the first writer."""
        while True:
            await _ready(self._descriptor, asyncio.get_running_loop().add_reader)
            try:
                return os.read(self._descriptor, READ_SIZE)
            except BlockingIOError:
                continue

    def pending(self) -> bytes:
        """What was written already."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self._descriptor, READ_SIZE)
        return b""

    def close(self) -> None:
        """Stop reading."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


async def _ready(descriptor: int, register: Callable[..., object]) -> None:
    """Wait until ``descriptor`` can be read or written. It stays registered only meanwhile: idle is idle."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    register(descriptor, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_writer(descriptor) if register == loop.add_writer else loop.remove_reader(descriptor)
