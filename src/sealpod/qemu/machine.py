# SPDX-License-Identifier: Apache-2.0
"""One QEMU process: started paused, spoken to over QMP, gone when its scope ends.

``Machine`` owns the process, the guest's RAM (a memory file both QEMU and the platform map), the QMP
session, the console and the way to the agent. All are descriptors: nothing of a guest is in the file system.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Final, cast

from qemu.qmp import QMPClient, QMPError

from sealpod.errors import LaunchError, OperationError
from sealpod.qemu import vsock
from sealpod.qemu.arguments import Descriptors, MachineSpec, build_arguments
from sealpod.qemu.binary import Qemu
from sealpod.qemu.console import Console, clean
from sealpod.qemu.memlock import allow_locked
from sealpod.qemu.process import spawn

QMP_SECONDS: Final = 20.0  # longest answer: reading the flash of a guest under load
EXIT_SECONDS: Final = 5.0
STDERR_LINES: Final = 20
QEMU_REMEDY: Final = "see what QEMU says, and that QEMU and its accelerator fit this machine"
MEMORY_REMEDY: Final = "this machine has no room for the guest: give it less memory, or stop others"
_RIP = re.compile(r"\b[RE]IP=([0-9a-f]+)")


class Machine:
    """A guest's QEMU. Make one with :func:`start_machine`."""

    def __init__(
        self, spec: MachineSpec, ram_fd: int, process: asyncio.subprocess.Process, cid: int = 0
    ) -> None:
        self.spec = spec
        self.cid = cid
        """The guest's address on vsock, 0 when its agent is on a serial port."""
        self._ram_fd = ram_fd
        self.console = Console()
        self.exited = asyncio.Event()
        self._process = process
        self._qmp = QMPClient(spec.name)
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)
        self._tasks: list[asyncio.Task[None]] = []
        self._agent: socket.socket | None = None

    @property
    def ram_fd(self) -> int:
        """The file that is the guest's RAM. OperationError for a plain machine, which shares none."""
        if self._ram_fd < 0:
            raise OperationError("this machine's memory is not shared", code="launch.plain")
        return self._ram_fd

    @property
    def pid(self) -> int:
        """Process id of QEMU."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Exit status of QEMU, None while it runs."""
        return self._process.returncode

    def stderr_tail(self) -> str:
        """What QEMU itself complained about last, in one line."""
        return " / ".join(line for line in self._stderr if "warning:" not in line)

    async def connect(self, qmp: socket.socket, console: socket.socket, agent: socket.socket | None) -> None:
        """Take the host's ends of the channels and open the QMP session."""
        self._agent = agent
        self._tasks = [
            asyncio.create_task(self._watch()),
            asyncio.create_task(self._read_stderr()),
            asyncio.create_task(self._read_console(console)),
        ]
        try:
            async with asyncio.timeout(QMP_SECONDS):
                await self._qmp.connect(qmp)
        except (QMPError, TimeoutError) as error:
            await self._settle()
            raise self.failure("QEMU did not start") from error

    async def dial(self) -> socket.socket:
        """The way to the guest's agent. On vsock this waits until the agent listens."""
        if self._agent is None:
            self._agent = await vsock.dial(self.cid)
        return self._agent

    async def qmp(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """One QMP command's return value. Raises LaunchError when QEMU refuses it or is gone."""
        try:
            async with asyncio.timeout(QMP_SECONDS):
                return await self._qmp.execute(command, cast("dict[str, object]", dict(arguments or {})))
        except (QMPError, TimeoutError) as error:
            await self._settle()
            if self.exit_code is not None:
                raise self.failure(
                    "the guest ended while it started", code="launch.ended", remedy="see the guest's console"
                ) from error
            # The text of a reply may repeat arguments; only the class and the command are shown.
            raise self.failure(f"QEMU refused {command}: {_describe(error)}") from error

    async def read_physical(self, gpa: int, size: int) -> bytes:
        """``size`` bytes at guest physical address ``gpa``, as the guest's processor would see them."""
        copy = os.memfd_create("sealpod-read", os.MFD_CLOEXEC)
        try:
            path = f"/proc/{os.getpid()}/fd/{copy}"
            await self.qmp("pmemsave", {"val": gpa, "size": size, "filename": path})
            data = os.pread(copy, size, 0)
        finally:
            os.close(copy)
        if len(data) != size:
            raise self.failure(f"QEMU gave {len(data)} of {size} bytes of guest memory")
        return data

    async def resume(self) -> None:
        """Let the guest run."""
        await self.qmp("cont")

    async def status(self) -> str:
        """QEMU's run state, such as ``running`` or ``internal-error``."""
        answer = await self.qmp("query-status")
        return str(answer.get("status")) if isinstance(answer, dict) else "unknown"

    async def instruction_pointer(self) -> int | None:
        """The first processor's RIP, None when QEMU does not show it."""
        answer = await self.qmp("human-monitor-command", {"command-line": "info registers"})
        match = _RIP.search(str(answer))
        return None if match is None else int(match[1], 16)

    def failure(self, message: str, *, code: str = "launch.qemu", remedy: str = QEMU_REMEDY) -> LaunchError:
        """A LaunchError that carries what QEMU and the guest said last."""
        if self.exit_code is not None:
            message += f" (QEMU ended with status {self.exit_code})"
        if complaint := self.stderr_tail():
            message += f": {complaint}"
            if "Cannot allocate memory" in complaint:
                remedy = MEMORY_REMEDY
        return LaunchError(message, code=code, remedy=remedy, console=self.console.words())

    async def wait(self) -> int:
        """Wait until QEMU has ended; its exit status."""
        await self.exited.wait()
        return self._process.returncode if self._process.returncode is not None else -1

    def kill(self) -> None:
        """End QEMU at once; :meth:`wait` tells when it has ended."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def forget_memory(self) -> None:
        """Give back the RAM of a guest that has ended, though we and the platform have its file open."""
        if self._ram_fd >= 0 and self.exit_code is not None:
            os.ftruncate(self._ram_fd, 0)

    async def close(self) -> None:
        """End QEMU at once (a guest keeps nothing worth a slow goodbye) and release everything."""
        self.kill()
        await self._process.wait()
        with contextlib.suppress(Exception):
            await self._qmp.disconnect()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._agent is not None:
            self._agent.close()

    async def _watch(self) -> None:
        await self._process.wait()
        self.exited.set()

    async def _settle(self) -> None:
        # A dying QEMU closes its sockets before its last words and exit status arrive.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await self.exited.wait()
                await self._tasks[1]

    async def _read_stderr(self) -> None:
        stream = self._process.stderr
        if stream is not None:
            while line := await stream.readline():
                self._stderr.append(clean(line.decode(errors="replace")))

    async def _read_console(self, source: socket.socket) -> None:
        with source:
            await self.console.collect(source)


def _describe(error: BaseException) -> str:
    description = getattr(error, "error", None)
    text = getattr(description, "desc", None)
    return str(text) if text else type(error).__name__


@contextlib.asynccontextmanager
async def start_machine(qemu: Qemu, spec: MachineSpec) -> AsyncIterator[Machine]:
    """A paused guest for the length of the block. Raises LaunchError when QEMU does not come up."""
    if spec.confidential:
        allow_locked(spec.memory << 20)
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        ram = -1
        if spec.shares_memory:
            ram = os.memfd_create("sealpod-ram", os.MFD_CLOEXEC)
            ours.callback(os.close, ram)
            os.ftruncate(ram, spec.memory << 20)
        vhost, cid = -1, 0
        if spec.vsock:
            vhost, cid = vsock.reserve()
            theirs.callback(os.close, vhost)
        qmp, qmp_fd = _pair(ours, theirs)
        console, console_fd = _pair(ours, theirs)
        agent, agent_fd = (None, -1) if spec.vsock else _pair(ours, theirs)
        fds = Descriptors(ram, qmp_fd, agent_fd, console_fd, vhost, cid)
        process = await spawn(
            build_arguments(qemu, spec, fds),
            fds=[fd for fd in (ram, qmp_fd, agent_fd, console_fd, vhost) if fd >= 0],
            netns=spec.netns,
            cgroup=spec.cgroup,
        )
        machine = Machine(spec, ram, process, cid)
        try:
            theirs.close()
            await machine.connect(qmp, console, agent)
            yield machine
        finally:
            # Shielded: a second Ctrl-C must not leave a QEMU behind.
            await asyncio.shield(machine.close())


def _pair(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[socket.socket, int]:
    """A channel: our end, not blocking, and the descriptor of QEMU's."""
    here, there = socket.socketpair()
    here.setblocking(False)
    ours.callback(here.close)
    theirs.callback(there.close)
    return here, there.fileno()
