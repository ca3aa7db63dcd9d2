# SPDX-License-Identifier: Apache-2.0
"""One process of a pod as containerd sees it: its state, its streams, its end.

==========  =============================  ==============================
state       meaning                        leaves it by
==========  =============================  ==============================
CREATED     not started                    ``run``, or the pod's end
RUNNING     (PAUSED: its container is)     its end, or the pod's
STOPPED     status and time are known      never
==========  =============================  ==============================
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sealpod.errors import SealpodError
from sealpod.sandbox.agent import AgentClient
from sealpod.shim.streams import Input, Output
from sealpod.wire.pb import agent_pb2
from sealpod.wire.taskapi import CREATED, RUNNING, STOPPED

CHUNK: Final = 256 << 10  # bytes asked for per read of an output
NO_READER_SECONDS: Final = 2.0
"""How long output of a process that has ended may find no reader before it is given up."""
UNKNOWN: Final = 255  # the exit status of a process whose own cannot be learnt
KILLED: Final = 137


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
        self.state = CREATED
        self.exit_status = 0
        self.exited_at = 0  # ns since 1970
        self.size: tuple[int, int] | None = None  # width, height asked for before the start
        self._ended = asyncio.Event()
        self._input: Input | None = None
        self._outputs: list[Output] = []
        self._copying: list[asyncio.Task[None]] = []
        self._feeding: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """The process's id in the agent's terms."""
        return self.exec_id or self.container_id

    async def wait(self) -> None:
        """Return when it is STOPPED."""
        await self._ended.wait()

    def end(self, status: int) -> bool:
        """It is over. True the first time, False when that was known."""
        if self.state == STOPPED:
            return False
        self.state, self.exit_status, self.exited_at = STOPPED, status, time.time_ns()
        self._close_streams()
        self._ended.set()
        return True

    def open_streams(self) -> None:
        """Open what containerd made. OSError or UsageError."""
        self._input = Input.open(self.stdio.stdin)
        for address in (self.stdio.stdout, "" if self.stdio.terminal else self.stdio.stderr):
            output = Output.open(address)
            self._outputs.append(output if output is not None else Output.open("file:///dev/null"))  # type: ignore[arg-type]

    def run(self, agent: AgentClient, ended: Callable[[Process, int], None]) -> None:
        """It runs in the guest: copy its streams, and call ``ended`` with its status, once, at its end."""
        self.state = RUNNING
        for method, output in zip(("ReadStdout", "ReadStderr"), self._outputs, strict=False):
            self._copying.append(asyncio.create_task(self._copy(agent, method, output)))
        if self._input is not None:
            self._feeding = asyncio.create_task(self._feed(agent, self._input))
        self._watching = asyncio.create_task(self._watch(agent, ended))

    async def close_input(self, agent: AgentClient) -> None:
        """What was written already still reaches the process; then its input ends."""
        if self._feeding is not None:
            self._feeding.cancel()
            await asyncio.gather(self._feeding, return_exceptions=True)
        if self._input is not None:
            while data := self._input.pending():
                await self._write(agent, data)
        with contextlib.suppress(SealpodError):
            await agent.call("CloseStdin", agent_pb2.CloseStdinRequest(**self._ids()))

    def _ids(self) -> dict[str, str]:
        return {"container_id": self.container_id, "exec_id": self.name}

    async def _watch(self, agent: AgentClient, ended: Callable[[Process, int], None]) -> None:
        try:
            request = agent_pb2.WaitProcessRequest(**self._ids())
            answer = await agent.call("WaitProcess", request, seconds=None)
            status = int(agent_pb2.WaitProcessResponse.FromString(answer).status)
        except SealpodError:
            status = UNKNOWN
        await self._drain()
        ended(self, status)

    async def _drain(self) -> None:
        """Wait for the outputs' ends, as long as somebody reads."""
        while True:
            before = sum(output.written for output in self._outputs)
            waiting = [task for task in self._copying if not task.done()]
            if not waiting:
                return
            await asyncio.wait(waiting, timeout=NO_READER_SECONDS)
            if sum(output.written for output in self._outputs) == before:
                return

    async def _copy(self, agent: AgentClient, method: str, output: Output) -> None:
        # Of a stream that fails (the guest is gone) the process's end tells.
        with contextlib.suppress(SealpodError, OSError):
            async for data in agent.output(self.container_id, method, exec_id=self.name, size=CHUNK):
                await output.write(data)
        output.close()

    async def _feed(self, agent: AgentClient, source: Input) -> None:
        with contextlib.suppress(SealpodError, OSError):
            while data := await source.read():
                await self._write(agent, data)
            await agent.call("CloseStdin", agent_pb2.CloseStdinRequest(**self._ids()))

    async def _write(self, agent: AgentClient, data: bytes) -> None:
        request = agent_pb2.WriteStreamRequest(**self._ids(), data=data)
        await agent.call("WriteStdin", request, seconds=None)

    def _close_streams(self) -> None:
        current = asyncio.current_task()
        for task in (*self._copying, self._feeding, self._watching):
            if task is not None and task is not current:
                task.cancel()
        for output in self._outputs:
            output.close()
        if self._input is not None:
            self._input.close()
