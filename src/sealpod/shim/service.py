# SPDX-License-Identifier: Apache-2.0
"""containerd's Task service for one pod: which function answers which method.

The pod's own container has no process in the guest: creating it boots the virtual machine, killing it ends
the machine. Every other container is made in the guest by its agent. Process ids are QEMU's, the one process
of the host that stands for them all. ``Checkpoint`` stands in no table: a guest's memory never leaves it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from sealpod.shim.context import ShimContext
from sealpod.shim.control import Control
from sealpod.shim.events import EventSink
from sealpod.shim.inspection import Inspection
from sealpod.shim.lifecycle import Lifecycle, Method
from sealpod.shim.pod import Pod
from sealpod.wire import taskapi
from sealpod.wire.taskapi import MESSAGES, METHODS

if TYPE_CHECKING:
    from sealpod.sandbox.podvm import StartPod

Handler = Callable[[bytes], Awaitable[bytes]]


class TaskService:
    """One pod. ``finished`` is set when containerd needs this process no more."""

    def __init__(
        self,
        context: ShimContext,
        events: EventSink,
        start_pod: StartPod,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.finished = asyncio.Event()
        self._pod = Pod(context, events, start_pod, say)

    def methods(self) -> dict[tuple[str, str], Handler]:
        """Handlers by service and method."""
        handlers = Inspection(self._pod).table()
        tasks = {**Lifecycle(self._pod, self.finished.set).table(), **Control(self._pod).table()}
        for name, method in tasks.items():
            handler = _handler(method, *METHODS[name])
            handlers |= {(service, name): handler for service in (taskapi.TASK, taskapi.TASK_V3)}
        return handlers

    async def close(self) -> None:
        """End the pod and everything of it."""
        await self._pod.close()


def _handler(method: Method, request: str, response: str) -> Handler:
    async def handle(payload: bytes) -> bytes:
        answer = await method(MESSAGES.decode(request, payload))
        return (answer or MESSAGES.new(response)).encode()

    return handle
