# SPDX-License-Identifier: Apache-2.0
"""A container of the pod: its first process, those beside it, and what may be done when."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Final

from sealpod.errors import ConflictError, InterruptError, NotFoundError, UsageError, VerificationError
from sealpod.shim.process import KILLED, Process, Stdio
from sealpod.shim.usernames import NO_NAMES
from sealpod.wire.taskapi import CREATED, PAUSED, RUNNING, STOPPED

MAX_EXECS: Final = 128
NAMES: Final = {CREATED: "created", RUNNING: "running", STOPPED: "stopped", PAUSED: "paused"}


class Container:
    """``making`` is the task that makes it, until it is made."""

    def __init__(self, container_id: str, bundle: str, stdio: Stdio) -> None:
        self.id = container_id
        self.bundle = bundle
        self.virtual = False
        """The pod's own container, which has no process in the guest."""
        self.owner = False
        """The pod's machine lives and ends with it: the pod's own container, or one that is a pod alone."""
        self.names = NO_NAMES
        """Users its image has by name."""
        self.making: asyncio.Task[None] | None = None
        self.init = Process(container_id, "", stdio)
        self.specs: dict[str, dict[str, Any]] = {}
        self._execs: dict[str, Process] = {}

    async def make(self, work: asyncio.Task[None]) -> None:
        """See the work that makes it to its end. What went wrong is raised, and its streams are closed."""
        self.making = work
        try:
            await asyncio.wait([work])
            if work.cancelled():
                raise InterruptError("the container was taken back while it was made", code="shim.cancelled")
            work.result()
        except BaseException:
            await self.take_back()
            self.init.end(KILLED)
            raise
        finally:
            self.making = None

    async def take_back(self) -> None:
        """End the work that makes it, if it is under way; then nothing of it is left."""
        work = self.making
        if work is not None and not work.done():
            work.cancel()
            await asyncio.wait([work])

    def process(self, exec_id: str) -> Process:
        """The first process (empty id) or one beside it. NotFoundError if there is none."""
        found = self._execs.get(exec_id) if exec_id else self.init
        if found is None:
            raise NotFoundError(f"process {exec_id} does not exist in {self.id}", code="shim.unknown")
        return found

    def processes(self) -> Iterator[Process]:
        """All of them, the first one last."""
        yield from list(self._execs.values())
        yield self.init

    def add(self, exec_id: str, stdio: Stdio, spec: dict[str, Any]) -> Process:
        """Remember a process to be started. Its streams are open."""
        if exec_id in self._execs or exec_id in ("", self.id):
            raise ConflictError(f"id {exec_id}", code="shim.exists")
        if len(self._execs) >= MAX_EXECS:
            raise UsageError(
                f"a container runs {MAX_EXECS} processes at most beside its own", code="shim.many"
            )
        process = Process(self.id, exec_id, stdio)
        process.open_streams()
        self._execs[exec_id] = process
        self.specs[exec_id] = spec
        return process

    def remove(self, exec_id: str) -> None:
        """Forget a process that is over."""
        self._execs.pop(exec_id, None)
        self.specs.pop(exec_id, None)

    def require(self, process: Process, what: str, *states: int) -> None:
        """VerificationError (FailedPrecondition on the wire) unless the process is in one of ``states``."""
        if self.making is not None:
            raise VerificationError(f"{self.id} is still being made and cannot be {what}", code="shim.state")
        if process.state not in states:
            text = f"{process.name} is {NAMES[process.state]} and cannot be {what}"
            raise VerificationError(text, code="shim.state")

    def describe(self) -> dict[str, object]:
        """For `sealpod sandbox inspect`."""
        return {
            "id": self.id,
            "state": NAMES[self.init.state],
            "exitStatus": self.init.exit_status if self.init.state == STOPPED else None,
            "execs": len(self._execs),
            "pod": self.virtual,
        }
