# SPDX-License-Identifier: Apache-2.0
"""A container of the pod: its first process, those beside it, and what may be done when."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Final

from sealpod.errors import ConflictError, NotFoundError, UsageError, VerificationError
from sealpod.shim.process import Process, Stdio
from sealpod.wire.taskapi import CREATED, PAUSED, RUNNING, STOPPED

MAX_EXECS: Final = 128
NAMES: Final = {CREATED: "created", RUNNING: "running", STOPPED: "stopped", PAUSED: "paused"}


class Container:
    """``virtual`` is the pod's own container, which has no process in the guest."""

    def __init__(self, container_id: str, bundle: str, stdio: Stdio, *, virtual: bool = False) -> None:
        self.id = container_id
        self.bundle = bundle
        self.virtual = virtual
        self.paused = False
        self.lock = asyncio.Lock()
        self.init = Process(container_id, "", stdio)
        self.specs: dict[str, dict[str, Any]] = {}
        self._execs: dict[str, Process] = {}

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

    def add(self, exec_id: str, stdio: Stdio, spec: dict[str, Any]) -> None:
        """Remember a process to be started."""
        if exec_id in self._execs or not exec_id:
            raise ConflictError(f"id {exec_id}", code="shim.exists")
        if len(self._execs) >= MAX_EXECS:
            raise UsageError(
                f"a container runs {MAX_EXECS} processes at most beside its own", code="shim.many"
            )
        self._execs[exec_id] = Process(self.id, exec_id, stdio)
        self.specs[exec_id] = spec

    def remove(self, exec_id: str) -> None:
        """Forget a process that is over."""
        self._execs.pop(exec_id, None)
        self.specs.pop(exec_id, None)

    def status(self, process: Process) -> int:
        """The process's state, with that of a frozen container."""
        return PAUSED if self.paused and process.state == RUNNING else process.state

    def require(self, process: Process, state: int, what: str, *, also: int = 0) -> None:
        """VerificationError (FailedPrecondition on the wire) unless the process is in ``state``."""
        if process.state not in (state, also):
            text = f"{process.name} is {NAMES[self.status(process)]} and cannot be {what}"
            raise VerificationError(text, code="shim.state")

    def describe(self) -> dict[str, object]:
        """For `sealpod sandbox inspect`."""
        return {
            "id": self.id,
            "state": NAMES[self.status(self.init)],
            "exitStatus": self.init.exit_status if self.init.state == STOPPED else None,
            "execs": len(self._execs),
            "pod": self.virtual,
        }
