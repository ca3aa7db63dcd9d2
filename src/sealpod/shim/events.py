# SPDX-License-Identifier: Apache-2.0
"""What containerd is told without asking: one queue, in order, kept over a restart of containerd.

An event that cannot be delivered is tried again after 1, 2, 3 and 4 seconds and then dropped, so that those
behind it get their turn; containerd asks for states itself when it comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import deque
from typing import Final, Protocol

from sealpod.errors import SealpodError
from sealpod.sandbox.channel import Channel
from sealpod.wire import taskapi
from sealpod.wire.message import Message

MAX_QUEUE: Final = 2048
CALL_SECONDS: Final = 5.0
ATTEMPTS: Final = 5
DRAIN_SECONDS: Final = 5.0


class EventSink(Protocol):
    """Where a pod's events go."""

    def publish(self, name: str, event: Message) -> None:
        """Queue the event message called ``name`` of :mod:`sealpod.wire.taskapi`; keeps order."""


class Publisher:
    """Delivers events to containerd's ttrpc socket."""

    def __init__(self, address: str, namespace: str) -> None:
        self._address = address
        self._namespace = namespace
        self._queue: deque[bytes] = deque(maxlen=MAX_QUEUE)
        self._filled = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._channel: Channel | None = None
        self._connection: socket.socket | None = None
        self._task = asyncio.create_task(self._run())

    def publish(self, name: str, event: Message) -> None:
        """See :class:`EventSink`."""
        self._queue.append(taskapi.envelope(self._namespace, name, event, time.time_ns()).encode())
        self._empty.clear()
        self._filled.set()

    async def close(self) -> None:
        """Deliver what is queued, for a bounded time, and disconnect."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._empty.wait()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._disconnect()

    async def _run(self) -> None:
        while True:
            await self._filled.wait()
            while self._queue:
                await self._deliver(self._queue[0])
                self._queue.popleft()
            self._filled.clear()
            self._empty.set()

    async def _deliver(self, payload: bytes) -> None:
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(attempt)
            try:
                channel = await self._connect()
                await channel.call(taskapi.EVENTS, "Forward", payload, seconds=CALL_SECONDS)
            except (OSError, SealpodError):
                await self._disconnect()
            else:
                return

    async def _connect(self) -> Channel:
        if self._channel is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(connection, self._address)
            except OSError:
                connection.close()
                raise
            self._connection, self._channel = connection, Channel(connection, "containerd")
        return self._channel

    async def _disconnect(self) -> None:
        channel, self._channel = self._channel, None
        connection, self._connection = self._connection, None
        if channel is not None:
            await channel.close()
        if connection is not None:
            connection.close()
