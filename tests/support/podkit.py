# SPDX-License-Identifier: Apache-2.0
"""A pod without a machine: a scripted guest behind the agent's API, and containerd's side of the shim.

The guest answers the calls of a real :class:`AgentClient` and runs processes that do what a test tells them:
write, exit, be killed. Left out: time, volumes' contents (copies are only remembered), real signals.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sealpod.errors import NotFoundError, OperationError, SealpodError, UnavailableError
from sealpod.kataconfig.limits import CREATE_SECONDS
from sealpod.sandbox.agent import AgentClient
from sealpod.shim.context import ShimContext
from sealpod.shim.service import TaskService
from sealpod.wire import taskapi
from sealpod.wire.message import Message
from sealpod.wire.pb import agent_pb2
from sealpod.wire.taskapi import MESSAGES, METHODS, TASK

PID = 4242
ENDING = (2, 9, 15)
READER_SECONDS = 8


class GuestProcess:
    """One process in the guest."""

    def __init__(self) -> None:
        self.started = False
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.stdin = bytearray()
        self.stdin_closed = asyncio.Event()
        self.signals: list[int] = []
        self._pending = {"ReadStdout": bytearray(), "ReadStderr": bytearray()}
        self._open = {"ReadStdout": True, "ReadStderr": True}
        self._changed = asyncio.Condition()

    async def write(self, data: bytes, stream: str = "ReadStdout") -> None:
        async with self._changed:
            self._pending[stream] += data
            self._changed.notify_all()

    async def close_output(self) -> None:
        async with self._changed:
            self._open = dict.fromkeys(self._open, False)
            self._changed.notify_all()

    async def exit(self, status: int) -> None:
        """End, with the outputs."""
        if not self.exited.done():
            self.exited.set_result(status)
        await self.close_output()

    async def read(self, stream: str, size: int) -> bytes:
        async with self._changed:
            await self._changed.wait_for(lambda: self._pending[stream] or not self._open[stream])
            data = bytes(self._pending[stream][:size])
            del self._pending[stream][:size]
        if not data:
            raise OperationError("eof")
        return data


class Guest:
    """Stands where the channel to the agent is. ``gates``: methods that wait for an event of the test's."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.processes: dict[tuple[str, str], GuestProcess] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.arrived: dict[str, asyncio.Event] = {}
        self.failures: dict[str, SealpodError] = {}
        self.instant: int | None = None
        """Exit status with which processes end as soon as they start."""
        self.last_words: bytes | None = None
        """What containers left in their files for it; None: the method is not served."""
        self.ooms: asyncio.Queue[str] = asyncio.Queue()
        self._gone = asyncio.Event()

    def named(self, method: str) -> list[Any]:
        """Requests of one method so far."""
        return [request for name, request in self.calls if name == method]

    def process(self, container_id: str, exec_id: str = "") -> GuestProcess:
        return self.processes[container_id, exec_id or container_id]

    def arrival(self, method: str) -> asyncio.Event:
        """Set when a call of ``method`` has come."""
        return self.arrived.setdefault(method, asyncio.Event())

    def die(self) -> None:
        """The channel closes; every call fails."""
        self._gone.set()

    async def call(self, service: str, method: str, payload: bytes, *, seconds: float | None = None) -> bytes:
        work = asyncio.ensure_future(self._answer(method, payload))
        gone = asyncio.ensure_future(self._gone.wait())
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise UnavailableError("the guest's agent closed its channel", code="agent.gone")
            return work.result()
        finally:
            work.cancel()
            gone.cancel()

    async def _answer(self, method: str, payload: bytes) -> bytes:
        name = {"WriteStdin": "WriteStream", "ReadStdout": "ReadStream", "ReadStderr": "ReadStream"}
        name["ReadTerminationMessage"] = "ReadStream"
        request = getattr(agent_pb2, f"{name.get(method, method)}Request")()
        request.ParseFromString(payload)
        self.calls.append((method, request))
        self.arrival(method).set()
        if method in self.gates:
            await self.gates[method].wait()
        if method in self.failures:
            raise self.failures[method]
        handler = getattr(self, f"_{method}", None)
        answer = await handler(request, method) if handler is not None else None
        return answer.SerializeToString() if answer is not None else b""

    def _find(self, request: Any) -> GuestProcess:
        found = self.processes.get((request.container_id, request.exec_id or request.container_id))
        if found is None:
            raise NotFoundError("no such process", code="container.unknown")
        return found

    async def _CreateContainer(self, request: Any, _: str) -> None:
        self.processes[request.container_id, request.container_id] = GuestProcess()

    async def _StartContainer(self, request: Any, _: str) -> None:
        await self._run(self.process(request.container_id))

    async def _ExecProcess(self, request: Any, _: str) -> None:
        self.processes[request.container_id, request.exec_id] = process = GuestProcess()
        await self._run(process)

    async def _run(self, process: GuestProcess) -> None:
        process.started = True
        if self.instant is not None:
            await process.exit(self.instant)

    async def _RemoveContainer(self, request: Any, _: str) -> None:
        for key in [key for key in self.processes if key[0] == request.container_id]:
            await self.processes.pop(key).exit(137)

    async def _SignalProcess(self, request: Any, _: str) -> None:
        process = self._find(request)
        process.signals.append(request.signal)
        if request.signal in ENDING:
            await process.exit(128 + request.signal)

    async def _WaitProcess(self, request: Any, _: str) -> Any:
        status = await asyncio.shield(self._find(request).exited)
        return agent_pb2.WaitProcessResponse(status=status)

    async def _ReadStdout(self, request: Any, method: str) -> Any:
        return agent_pb2.ReadStreamResponse(data=await self._find(request).read(method, request.len))

    _ReadStderr = _ReadStdout

    async def _ReadTerminationMessage(self, request: Any, _: str) -> Any:
        if self.last_words is None:
            raise OperationError("method ReadTerminationMessage")
        return agent_pb2.ReadStreamResponse(data=self.last_words)

    async def _WriteStdin(self, request: Any, _: str) -> Any:
        self._find(request).stdin.extend(request.data)
        return agent_pb2.WriteStreamResponse(len=len(request.data))

    async def _CloseStdin(self, request: Any, _: str) -> None:
        self._find(request).stdin_closed.set()

    async def _GetOOMEvent(self, request: Any, _: str) -> Any:
        return agent_pb2.OOMEvent(container_id=await self.ooms.get())

    async def _StatsContainer(self, request: Any, _: str) -> Any:
        answer = agent_pb2.StatsContainerResponse()
        answer.cgroup_stats.memory_stats.usage.usage = 12345
        return answer

    async def _GetMetrics(self, request: Any, _: str) -> Any:
        return agent_pb2.Metrics(metrics="sealpod_up 1\n")


class Machine:
    """A ``PodVm``."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.agent = AgentClient(guest)  # type: ignore[arg-type]
        self.settings = SimpleNamespace(
            image_reference=lambda reference: reference, kata=SimpleNamespace(create_timeout=CREATE_SECONDS)
        )
        self.stops = 0
        self.confined: list[tuple[str, str, str]] = []
        self._reason: asyncio.Future[SealpodError] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int:
        return PID

    def confine(self, container_id: str, cpus: str, mems: str) -> None:
        if cpus == "99":
            raise OperationError("no such processor", code="cgroup.failed")
        self.confined.append((container_id, cpus, mems))

    async def wait(self) -> SealpodError:
        return await asyncio.shield(self._reason)

    async def stop(self, seconds: float = 5.0) -> None:
        self.stops += 1
        self.crash("stopped")
        await asyncio.sleep(0)

    def crash(self, why: str, *, answers: bool = False, code: str = "guest.ended") -> None:
        """The machine is gone. ``answers``: what the guest said before still arrives."""
        if not answers:
            self.guest.die()
        if not self._reason.done():
            self._reason.set_result(OperationError(why, code=code))

    def console(self, lines: int) -> tuple[str, ...]:
        return ("Kernel panic - not syncing",)[:lines]

    def describe(self) -> dict[str, object]:
        return {"state": "running"}


class Events:
    """Remembers what containerd is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Message]] = []
        self._news = asyncio.Event()

    def publish(self, name: str, event: Message) -> None:
        self.seen.append((name, taskapi.MESSAGES.decode(name, event.encode())))
        self._news.set()

    async def until(self, name: str) -> None:
        """Return when an event called ``name`` was published."""
        while name not in self.names():
            self._news.clear()
            await self._news.wait()

    def names(self, container_id: str = "") -> list[str]:
        return [name for name, event in self.seen if container_id in ("", event.container_id)]

    def exits(self) -> list[tuple[str, int]]:
        return [(event.id, event.exit_status) for name, event in self.seen if name == "TaskExit"]


class Bench:
    """containerd's side: bundles, FIFOs and calls. ``booting``: set it to None to let boots wait."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.events = Events()
        self.guest = Guest()
        self.machine: Machine | None = None
        self.boot_gate: asyncio.Event | None = None
        self.boot_error: SealpodError | None = None
        self.booting = asyncio.Event()
        self.boot_cancelled = False
        self.requests: list[Any] = []
        context = ShimContext("k8s.io", "pod", str(directory), "/none", "/none.ttrpc", "kata-qemu", "/none.s")
        self.service = TaskService(context, self.events, self._start_pod)
        self._methods = self.service.methods()

    async def _start_pod(self, request: Any) -> Machine:
        self.requests.append(request)
        self.booting.set()
        try:
            if self.boot_gate is not None:
                await self.boot_gate.wait()
        except asyncio.CancelledError:
            self.boot_cancelled = True
            raise
        if self.boot_error is not None:
            raise self.boot_error
        self.machine = Machine(self.guest)
        return self.machine

    async def call(self, method: str, **fields: Any) -> Message:
        request, response = METHODS[method]
        payload = MESSAGES.new(request, **fields).encode()
        return MESSAGES.decode(response, await self._methods[TASK, method](payload))

    async def ask(self, method: str) -> Any:
        return json.loads(await self._methods["sealpod.Sandbox", method](b""))

    def fifo(self, name: str) -> str:
        path = self.directory / name
        if not path.exists():
            os.mkfifo(path)
        return str(path)

    def bundle(
        self, name: str, kind: str = "", *, edit: Callable[[dict[str, Any]], None] | None = None
    ) -> str:
        """A bundle. ``kind``: ``sandbox``, ``container`` or nothing, as ``ctr run`` makes it."""
        annotations = {"io.kubernetes.cri.image-name": "registry.example/app:1"}
        if kind:
            annotations["io.kubernetes.cri.container-type"] = kind
            annotations["io.kubernetes.cri.sandbox-id"] = "pod"
        config: dict[str, Any] = {
            "ociVersion": "1.0.2",
            "process": {"args": ["/app"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "root": {"path": "rootfs"},
            "annotations": annotations,
            "linux": {"namespaces": [{"type": "network", "path": "/run/netns/x"}]},
        }
        if edit is not None:
            edit(config)
        path = self.directory / f"bundle-{name}"
        path.mkdir(exist_ok=True)
        (path / "config.json").write_text(json.dumps(config))
        return str(path)

    async def create(self, name: str, kind: str = "", **fields: Any) -> Message:
        edit = fields.pop("edit", None)
        return await self.call("Create", id=name, bundle=self.bundle(name, kind, edit=edit), **fields)

    async def run(self, name: str, kind: str = "", **fields: Any) -> None:
        """Create and start."""
        await self.create(name, kind, **fields)
        await self.call("Start", id=name)

    async def status(self, name: str, exec_id: str = "") -> int:
        return int((await self.call("State", id=name, exec_id=exec_id)).status)


def process_spec(*args: str) -> Message:
    """The ``spec`` of an Exec."""
    document = {"args": list(args), "cwd": "/", "user": {"uid": 0, "gid": 0}}
    url = "types.containerd.io/opencontainers/runtime-spec/1/Process"
    return MESSAGES.new("Any", type_url=url, value=json.dumps(document).encode())


class Reader:
    """containerd's end of a FIFO, open from the start: reads to its end in a thread."""

    def __init__(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._task = asyncio.create_task(asyncio.to_thread(self._read, descriptor))

    @staticmethod
    def _read(descriptor: int) -> bytes:
        found = bytearray()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        try:
            # Before the first writer poll waits; afterwards an empty read is the end.
            while poll.poll(READER_SECONDS * 1000):
                data = os.read(descriptor, 1 << 20)
                if not data:
                    return bytes(found)
                found += data
        finally:
            os.close(descriptor)
        raise AssertionError(f"no end after {len(found)} bytes")

    async def data(self) -> bytes:
        return await self._task
