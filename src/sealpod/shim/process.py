# SPDX-License-Identifier: Apache-2.0
"""One process of a pod as containerd sees it: its state, its streams, its end.

==========  =============================  ==============================
state       meaning                        leaves it by
==========  =============================  ==============================
CREATED     not started                    ``run``, or the pod's end
RUNNING     as it says                     its end, or the pod's; a pause
PAUSED      frozen with its container      resuming, or the pod's end
STOPPED     status and time are known      never
==========  =============================  ==============================
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from sealpod.errors import SealpodError
from sealpod.sandbox.agent import AgentClient
from sealpod.shim.streams import Input, Output
from sealpod.wire.pb import agent_pb2
from sealpod.wire.taskapi import CREATED, PAUSED, RUNNING, STOPPED

CHUNK: Final = 256 << 10  # bytes asked for per read of an output
STALL_SECONDS: Final = 2.0
"""How long output of a process that has ended may find no reader before it is given up."""
QUIET_STALLS: Final = 3
"""How many times that long a process's child, which holds the output open, may say nothing."""
UNKNOWN: Final = 255  # the exit status of a process whose own cannot be learnt
KILLED: Final = 137
TRANSITIONS: Final = frozenset(
    (
        (CREATED, RUNNING),
        (CREATED, STOPPED),
        (RUNNING, PAUSED),
        (RUNNING, STOPPED),
        (PAUSED, RUNNING),
        (PAUSED, STOPPED),
    )
)


@dataclass(frozen=True, slots=True)
class Stdio:
    """Addresses of the streams; empty means not wanted."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


class Process:
    """A container's first process (``exec_id`` empty) or one beside it."""

    def __init__(self, container_id: str, exec_id: str, stdio: Stdio) -> None:
        self.container_id = container_id
        self.exec_id = exec_id
        self.stdio = stdio
        self.exit_status = 0
        self.exited_at = 0  # ns since 1970
        self.size: tuple[int, int] | None = None  # width, height asked for before the start
        self.farewell: Callable[[AgentClient], Awaitable[None]] | None = None
        """What is done between its end and the telling of it."""
        self.epitaph: Callable[[str], None] | None = None
        """What is done with the reason when its guest is lost, instead."""
        self.lock = asyncio.Lock()
        """Held while it is started, frozen or deleted."""
        self._state = CREATED
        self._ended = asyncio.Event()
        self._input: Input | None = None
        self._outputs: list[Output] = []
        self._copying: list[asyncio.Task[None]] = []
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def name(self) -> str:
        """The process's id in the agent's terms."""
        return self.exec_id or self.container_id

    @property
    def state(self) -> int:
        """One of the states of :mod:`sealpod.wire.taskapi`."""
        return self._state

    @property
    def alive(self) -> bool:
        """Whether it was started and has not ended."""
        return self._state in (RUNNING, PAUSED)

    def become(self, state: int) -> None:
        """Change the state. RuntimeError where there is no such way."""
        if (self._state, state) not in TRANSITIONS:
            raise RuntimeError(f"process {self.name}: from state {self._state} to {state}")
        self._state = state

    async def wait(self) -> None:
        """Return when it is STOPPED."""
        await self._ended.wait()

    def end(self, status: int) -> bool:
        """It is over. True the first time, False when that was known."""
        if self._state == STOPPED:
            return False
        self.become(STOPPED)
        self.exit_status, self.exited_at = status, time.time_ns()
        self._let_go()
        self._ended.set()
        return True

    def open_streams(self) -> None:
        """Open what containerd made, which waits for us to do so. OSError or UsageError; all or nothing."""
        try:
            self._input = Input.open(self.stdio.stdin)
            self._outputs.append(Output.open(self.stdio.stdout))
            if not self.stdio.terminal:
                self._outputs.append(Output.open(self.stdio.stderr))
        except BaseException:
            self._let_go()
            raise

    def run(self, agent: AgentClient, ended: Callable[[Process, int], None]) -> None:
        """It runs in the guest: copy its streams, and call ``ended`` with its status, once, at its end."""
        self.become(RUNNING)
        for method, output in zip(("ReadStdout", "ReadStderr"), self._outputs, strict=False):
            task = asyncio.create_task(self._copy(agent, method, output))
            # Not in the task's own words: one cancelled before its first step never speaks.
            task.add_done_callback(lambda _task, output=output: output.close())  # type: ignore[misc]
            self._copying.append(task)
        feeding = asyncio.create_task(self._feed(agent, self._input))
        if self._input is not None:
            source = self._input
            feeding.add_done_callback(lambda _task: source.close())
        self._tasks = [feeding, asyncio.create_task(self._watch(agent, ended))]

    def close_input(self) -> None:
        """What was written already still reaches the process; then its input ends."""
        if self._input is not None:
            self._input.finish()

    def _ids(self) -> dict[str, str]:
        return {"container_id": self.container_id, "exec_id": self.name}

    async def _watch(self, agent: AgentClient, ended: Callable[[Process, int], None]) -> None:
        try:
            request = agent_pb2.WaitProcessRequest(**self._ids())
            answer = await agent.call("WaitProcess", request, seconds=None)
            status = int(agent_pb2.WaitProcessResponse.FromString(answer).status)
        except SealpodError as exc:
            if exc.code == "agent.gone":
                return  # whoever watches the machine says so of all its processes
            status = UNKNOWN
        await self._drain()
        if self.farewell is not None:
            await self.farewell(agent)
        ended(self, status)

    async def _drain(self) -> None:
        """Wait for the outputs' ends, as long as there is more and somebody reads it."""
        stalls = 0
        while waiting := [task for task in self._copying if not task.done()]:
            before = sum(output.written for output in self._outputs)
            await asyncio.wait(waiting, timeout=STALL_SECONDS)
            moved = sum(output.written for output in self._outputs) != before
            stalls = 0 if moved else stalls + 1
            if stalls >= QUIET_STALLS or (stalls and any(output.blocked for output in self._outputs)):
                return

    async def _copy(self, agent: AgentClient, method: str, output: Output) -> None:
        # Of a stream that fails (the guest is gone) the process's end tells.
        with contextlib.suppress(SealpodError, OSError):
            async for data in agent.output(self.container_id, method, exec_id=self.name, size=CHUNK):
                await output.write(data)

    async def _feed(self, agent: AgentClient, source: Input | None) -> None:
        if source is None and self.stdio.terminal:
            return
        with contextlib.suppress(SealpodError, OSError):
            while source is not None and (data := await source.read()):
                request = agent_pb2.WriteStreamRequest(**self._ids(), data=data)
                await agent.call("WriteStdin", request, seconds=None)
            await agent.call("CloseStdin", agent_pb2.CloseStdinRequest(**self._ids()))

    def _let_go(self) -> None:
        """Close the streams: with the tasks that use them, where there are any."""
        if not self._tasks:
            for output in self._outputs:
                output.close()
            if self._input is not None:
                self._input.close()
        current = asyncio.current_task()
        for task in (*self._copying, *self._tasks):
            if task is not current:
                task.cancel()
