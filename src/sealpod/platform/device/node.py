# SPDX-License-Identifier: Apache-2.0
"""The open ``/dev/sev``: one ioctl at a time, with buffers the kernel reads and writes.

A command takes milliseconds to a second and cannot be given up half-way, so it runs in a thread.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
from collections.abc import Callable

from sealpod.errors import UnavailableError
from sealpod.platform.device.failures import OPENING, device_error
from sealpod.platform.device.ioctls import (
    BUFFER,
    BUFFERS,
    SEV_ISSUE_CMD,
    STATUS,
    DeviceCommand,
    firmware_status,
    issue,
    platform_status,
)
from sealpod.platform.port import PlatformStatus

Ioctl = Callable[[int, int, bytearray], int]
"""``fcntl.ioctl``: descriptor, request, argument that is changed in place."""


class DeviceNode:
    """One descriptor of the device."""

    def __init__(self, path: str, fd: int, *, ioctl: Ioctl = fcntl.ioctl) -> None:
        self.path = path
        self._fd = fd
        self._ioctl = ioctl
        self._turn = asyncio.Lock()

    @classmethod
    def open(cls, path: str) -> DeviceNode:
        """The device, for writing if this user may: what changes or initialises the platform needs that.

        :raise NotFoundError: there is none, or no SEV behind it.
        :raise AccessError: this user may not even read it.
        """
        try:
            try:
                return cls(path, os.open(path, os.O_RDWR | os.O_CLOEXEC))
            except PermissionError:
                return cls(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise device_error(OPENING, path, error.errno or 0, 0) from error

    async def status(self) -> PlatformStatus:
        """PLATFORM_STATUS."""
        block = ctypes.create_string_buffer(STATUS.size)
        await self._issue(DeviceCommand.PLATFORM_STATUS, block)
        return platform_status(block.raw)

    async def run(self, command: DeviceCommand) -> None:
        """A command without arguments."""
        await self._issue(command, None)

    async def fill(self, command: DeviceCommand, size: int) -> bytes:
        """``size`` bytes from a command that fills one buffer."""
        buffer = ctypes.create_string_buffer(size)
        block = ctypes.create_string_buffer(BUFFER.pack(ctypes.addressof(buffer), size), BUFFER.size)
        await self._issue(command, block, buffer)
        return buffer.raw

    async def fill_two(self, command: DeviceCommand, first: int, second: int) -> tuple[bytes, bytes]:
        """The same for one that fills two."""
        buffers = ctypes.create_string_buffer(first), ctypes.create_string_buffer(second)
        await self._issue(command, _two(*buffers), *buffers)
        return buffers[0].raw, buffers[1].raw

    async def send_two(self, command: DeviceCommand, first: bytes, second: bytes) -> None:
        """A command that reads two buffers."""
        buffers = [ctypes.create_string_buffer(data, len(data)) for data in (first, second)]
        await self._issue(command, _two(*buffers), *buffers)

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def _issue(self, command: DeviceCommand, block: _Buffer | None, *kept: _Buffer) -> None:
        """``kept`` are the buffers the block points to: they must live as long as the call."""
        async with self._turn:
            if self._fd < 0:
                raise UnavailableError(
                    f"{self.path} is closed", code="platform.closed", remedy="open the platform again"
                )
            argument = issue(command, 0 if block is None else ctypes.addressof(block))
            # Shielded: the kernel goes on writing into the buffers when this task is cancelled.
            call = asyncio.ensure_future(asyncio.to_thread(self._call, argument, kept, block))
            try:
                await asyncio.shield(call)
            except asyncio.CancelledError:
                await asyncio.wait((call,))
                raise
            except OSError as error:
                status = firmware_status(argument)
                raise device_error(command.name, self.path, error.errno or 0, status) from error

    def _call(self, argument: bytearray, *_kept: object) -> None:
        self._ioctl(self._fd, SEV_ISSUE_CMD, argument)


_Buffer = ctypes.Array[ctypes.c_char]


def _two(first: _Buffer, second: _Buffer) -> _Buffer:
    packed = BUFFERS.pack(ctypes.addressof(first), len(first), ctypes.addressof(second), len(second))
    return ctypes.create_string_buffer(packed, BUFFERS.size)
