# SPDX-License-Identifier: Apache-2.0
"""Events: in order, once, over refusals and restarts of a containerd that the test plays."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from sealpod.errors import OperationError
from sealpod.shim import events
from sealpod.shim.events import MAX_QUEUE, RETRIES, Publisher
from sealpod.shim.server import TtrpcServer
from sealpod.wire import taskapi
from sealpod.wire.taskapi import MESSAGES

SECONDS = 20.0  # for a whole scenario; reached only when something hangs


class Containerd:
    """Takes events, or refuses as many as ``refuse`` says."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.seen: list[tuple[str, str]] = []
        self.refuse = 0
        self.tries = 0
        self.pauses: list[float] = []
        self.reports: list[str] = []
        self.asked = asyncio.Event()
        self.patient = asyncio.Event()
        self.hold = asyncio.Event()
        self.hold.set()
        self._server: TtrpcServer | None = None
        self._accepting: asyncio.Task[None] | None = None

    def up(self) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen()
        self._server = TtrpcServer(listener, {(taskapi.EVENTS, "Forward"): self._forward})
        self._accepting = asyncio.create_task(self._server.serve())

    async def down(self) -> None:
        if self._server is not None and self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
            await self._server.close()
            os.unlink(self.path)
            self._server = None

    def publisher(self) -> Publisher:
        return Publisher(f"unix://{self.path}", "k8s.io", report=self.reports.append, sleep=self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if len(self.pauses) == RETRIES + 3:
            self.patient.set()
        await asyncio.sleep(0)

    async def _forward(self, payload: bytes) -> bytes:
        self.tries += 1
        self.asked.set()
        await self.hold.wait()
        if self.refuse:
            self.refuse -= 1
            raise OperationError("not now")
        envelope = MESSAGES.decode("ForwardRequest", payload).envelope
        assert envelope.namespace == "k8s.io"
        assert envelope.timestamp.seconds > 0
        name = envelope.event.type_url.removeprefix(taskapi.EVENT_PREFIX)
        assert taskapi.TOPICS[name] == envelope.topic
        self.seen.append((envelope.topic, MESSAGES.decode(name, envelope.event.value).container_id))
        return b""


def play(scenario: Callable[[Containerd], Awaitable[None]]) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory(prefix="sh") as directory:
            containerd = Containerd(str(Path(directory) / "s"))
            try:
                async with asyncio.timeout(SECONDS):
                    await scenario(containerd)
            finally:
                await containerd.down()

    asyncio.run(run())


def publish(publisher: Publisher, name: str, container: str = "c") -> None:
    publisher.publish(name, MESSAGES.new(name, container_id=container))


def test_events_arrive_once_and_in_order() -> None:
    async def scenario(containerd: Containerd) -> None:
        containerd.up()
        publisher = containerd.publisher()
        names = ("TaskCreate", "TaskStart", "TaskExecAdded", "TaskExecStarted", "TaskExit", "TaskDelete")
        for name in names * 20:
            publish(publisher, name)
        await publisher.close()
        assert containerd.seen == [(taskapi.TOPICS[name], "c") for name in names] * 20
        assert not containerd.pauses

    play(scenario)


def test_events_wait_for_a_containerd_that_is_not_there() -> None:
    async def scenario(containerd: Containerd) -> None:
        publisher = containerd.publisher()
        publish(publisher, "TaskStart", "a")
        publish(publisher, "TaskExit", "a")
        await containerd.patient.wait()
        containerd.up()
        await publisher.close()
        assert containerd.seen == [("/tasks/start", "a"), ("/tasks/exit", "a")]
        assert containerd.pauses[: RETRIES + 3] == [1, 2, 3, 4, 5, 5, 5, 5]
        assert not containerd.reports

    play(scenario)


def test_a_restart_of_containerd_costs_neither_event_nor_pause() -> None:
    async def scenario(containerd: Containerd) -> None:
        containerd.up()
        publisher = containerd.publisher()
        publish(publisher, "TaskStart", "a")
        await publisher._empty.wait()
        await containerd.down()
        containerd.up()
        publish(publisher, "TaskExit", "a")
        await publisher.close()
        assert containerd.seen == [("/tasks/start", "a"), ("/tasks/exit", "a")]
        assert not containerd.pauses

    play(scenario)


def test_a_refusal_is_tried_again_and_keeps_the_order() -> None:
    async def scenario(containerd: Containerd) -> None:
        containerd.up()
        containerd.refuse = 3
        publisher = containerd.publisher()
        publish(publisher, "TaskStart")
        publish(publisher, "TaskExit")
        await publisher.close()
        assert containerd.seen == [("/tasks/start", "c"), ("/tasks/exit", "c")]
        assert containerd.pauses == [1, 2, 3]

    play(scenario)


def test_an_event_that_is_never_taken_makes_way_for_the_next() -> None:
    async def scenario(containerd: Containerd) -> None:
        containerd.up()
        containerd.refuse = RETRIES + 1
        publisher = containerd.publisher()
        publish(publisher, "TaskStart")
        publish(publisher, "TaskExit")
        await publisher.close()
        assert containerd.seen == [("/tasks/exit", "c")]
        assert containerd.tries == RETRIES + 2
        assert containerd.pauses == [1, 2, 3, 4, 5]
        [report] = containerd.reports
        assert report.startswith("the event TaskStart was not taken: not now")

    play(scenario)


def test_a_full_queue_loses_its_oldest_and_says_so() -> None:
    async def scenario(containerd: Containerd) -> None:
        containerd.up()
        containerd.hold.clear()
        publisher = containerd.publisher()
        publish(publisher, "TaskStart", "first")
        await containerd.asked.wait()
        for number in range(MAX_QUEUE + 2):
            publish(publisher, "TaskExit", str(number))
        assert len(containerd.reports) == 2
        containerd.hold.set()
        await publisher.close(SECONDS)
        numbers = [container for _, container in containerd.seen]
        assert numbers == ["first", *map(str, range(2, MAX_QUEUE + 2))]

    play(scenario)


def test_closing_waits_for_a_bounded_time_only() -> None:
    async def scenario(containerd: Containerd) -> None:
        containerd.up()
        containerd.hold.clear()
        publisher = containerd.publisher()
        publish(publisher, "TaskExit")
        await publisher.close(0.01)
        assert not containerd.seen

    play(scenario)


def test_the_promised_limits() -> None:
    assert (events.MAX_QUEUE, events.CALL_SECONDS, events.RETRIES) == (2048, 5.0, 5)
