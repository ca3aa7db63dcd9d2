# SPDX-License-Identifier: Apache-2.0
"""What containerd is told without asking: one queue, in order, kept over a restart of containerd.

While nobody listens, events wait. One that containerd takes but does not accept is tried again after 1, 2,
3, 4 and 5 seconds and then dropped, so that those behind it get their turn. When the queue is full its oldest
event is lost: containerd asks for states itself when it comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from sealpod.errors import SealpodError
from sealpod.sandbox.channel import Channel
from sealpod.wire import taskapi
from sealpod.wire.message import Message

MAX_QUEUE: Final = 2048
CALL_SECONDS: Final = 5.0
RETRIES: Final = 5
LONGEST_PAUSE: Final = 5  # seconds between attempts
DRAIN_SECONDS: Final = 5.0

Report = Callable[[str], None]


class EventSink(Protocol):
    """Where a pod's events go."""

    def publish(self, name: str, event: Message) -> None:
        """Queue the event message called ``name`` of :mod:`sealpod.wire.taskapi`; keeps order."""


class Publisher:
    """Delivers events to containerd's ttrpc socket."""

    def __init__(
        self,
        address: str,
        namespace: str,
        *,
        report: Report = lambda _line: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._address = address.removeprefix("unix://")
        self._namespace = namespace
        self._report = report
        self._sleep = sleep
        self._queue: deque[tuple[str, bytes]] = deque(maxlen=MAX_QUEUE)
        self._filled = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._channel: Channel | None = None
        self._connection: socket.socket | None = None
        self._task = asyncio.create_task(self._run())

    def publish(self, name: str, event: Message) -> None:
        """See :class:`EventSink`."""
        if len(self._queue) == MAX_QUEUE:
            self._report(f"the event {self._queue[0][0]} is lost: {MAX_QUEUE} others wait")
        payload = taskapi.envelope(self._namespace, name, event, time.time_ns()).encode()
        self._queue.append((name, payload))
        self._empty.clear()
        self._filled.set()

    async def close(self, seconds: float = DRAIN_SECONDS) -> None:
        """Deliver what is queued, for a bounded time, and disconnect."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._disconnect()

    async def _run(self) -> None:
        while True:
            await self._filled.wait()
            while self._queue:
                name, payload = self._queue.popleft()
                await self._deliver(name, payload)
            self._filled.clear()
            self._empty.set()

    async def _deliver(self, name: str, payload: bytes) -> None:
        refusals = unreachable = 0
        while True:
            # A connection that was kept may have died unnoticed: that alone costs no pause.
            fresh = self._channel is None
            try:
                channel = await self._connect()
            except OSError:
                unreachable += 1
                await self._sleep(min(unreachable, LONGEST_PAUSE))
                continue
            try:
                await channel.call(taskapi.EVENTS, "Forward", payload, seconds=CALL_SECONDS)
            except SealpodError as error:
                await self._disconnect()
                if not fresh:
                    continue
                if refusals == RETRIES:
                    self._report(f"the event {name} was not taken: {error.one_line()}")
                    return
                refusals += 1
                await self._sleep(min(refusals, LONGEST_PAUSE))
            else:
                return

    async def _connect(self) -> Channel:
        if self._channel is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(connection, self._address)
            except BaseException:
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
