# SPDX-License-Identifier: Apache-2.0
"""Task's methods that begin and end containers and processes: Create, Start, Exec, Kill, Delete, Shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from sealpod import errors
from sealpod.shim import agentspec
from sealpod.shim.container import Container
from sealpod.shim.making import make
from sealpod.shim.pod import Pod
from sealpod.shim.process import KILLED, UNKNOWN, Process, Stdio
from sealpod.wire.message import Message
from sealpod.wire.pb import agent_pb2
from sealpod.wire.taskapi import CREATED, MESSAGES, RUNNING, STOPPED, timestamp

MAX_CONTAINERS: Final = 64
SIGKILL: Final = 9
HARMLESS: Final = frozenset((0, 17, 18, 19, 20, 21, 22, 23, 28))
"""Signals that end nothing by themselves: none, CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG, WINCH."""

Method = Callable[[Message], Awaitable[Message | None]]


class Lifecycle:
    """Requests in, the pod's changes, answers out. ``finish`` is told when nothing is left to serve."""

    def __init__(self, pod: Pod, finish: Callable[[], None]) -> None:
        self._pod = pod
        self._finish = finish

    def table(self) -> dict[str, Method]:
        """Functions by the method's name."""
        return {
            "Create": self._create,
            "Start": self._start,
            "Exec": self._exec,
            "Kill": self._kill,
            "Delete": self._delete,
            "Shutdown": self._shutdown,
        }

    async def _create(self, request: Message) -> Message:
        pod = self._pod
        if request.id in pod.containers:
            raise errors.ConflictError(f"container {request.id} exists already", code="shim.exists")
        if len(pod.containers) >= MAX_CONTAINERS:
            raise errors.UsageError(f"a pod has {MAX_CONTAINERS} containers at most", code="shim.many")
        container = Container(request.id, request.bundle, _stdio(request))
        pod.containers[request.id] = container
        try:
            await container.make(asyncio.create_task(make(pod, container, request)))
            pod.machine()  # it may have gone while the work's end waited its turn
        except BaseException:
            container.init.end(KILLED)
            pod.containers.pop(request.id, None)
            raise
        io = {name: getattr(request, name) for name in ("stdin", "stdout", "stderr", "terminal")}
        pod.publish(
            "TaskCreate",
            container_id=request.id,
            bundle=request.bundle,
            rootfs=request.rootfs,
            io=MESSAGES.new("TaskIO", **io),
            pid=pod.pid,
        )
        return MESSAGES.new("CreateTaskResponse", pid=pod.pid)

    async def _start(self, request: Message) -> Message:
        pod = self._pod
        container = pod.container(request.id)
        process = container.process(request.exec_id)
        async with process.lock:
            container.require(process, "started", CREATED)
            vm = pod.machine()
            if request.exec_id:
                container.require(container.init, "entered", RUNNING)
                spec = container.specs[process.exec_id]
                message = agentspec.exec_request(
                    container.id, process.exec_id, spec, process.stdio.terminal, container.names
                )
                try:
                    await pod.call("ExecProcess", message)
                except errors.SealpodError:
                    # Its client waits for the streams to end before it says Delete.
                    pod.ended(process, UNKNOWN)
                    raise
            elif not container.virtual:
                await pod.call("StartContainer", agent_pb2.StartContainerRequest(container_id=container.id))
            if process.state == STOPPED:
                pod.machine()
                raise errors.UnavailableError(f"{process.name} ended while it started", code="shim.no-guest")
            self._announce(process)
            if container.virtual:
                process.become(RUNNING)
            else:
                process.run(vm.agent, pod.ended)
                pod.keep(resize(pod, process))
        return MESSAGES.new("StartResponse", pid=pod.pid)

    def _announce(self, process: Process) -> None:
        ids = {"container_id": process.container_id, "pid": self._pod.pid}
        if process.exec_id:
            self._pod.publish("TaskExecStarted", exec_id=process.exec_id, **ids)
        else:
            self._pod.publish("TaskStart", **ids)

    async def _exec(self, request: Message) -> None:
        container = self._pod.container(request.id)
        if container.virtual:
            text = "nothing can be run in the pod's own container"
            raise errors.UsageError(text, code="shim.virtual", remedy="name one of the pod's containers")
        self._pod.machine()
        container.require(container.init, "entered", CREATED, RUNNING)
        try:
            spec = decode_object(request.spec)
            container.add(request.exec_id, _stdio(request), spec)
        except OSError as exc:
            text = f"cannot open the process's streams: {exc.strerror}"
            raise errors.OperationError(text, code="shim.streams") from exc
        self._pod.publish("TaskExecAdded", container_id=container.id, exec_id=request.exec_id)

    async def _kill(self, request: Message) -> None:
        pod = self._pod
        container = pod.container(request.id)
        process = container.process(request.exec_id)
        deadly = request.signal not in HARMLESS
        if container.making is not None or container.virtual:
            if container.making is not None and deadly:
                await container.take_back()
                if container.owner:
                    # A containerd that started again meanwhile asks for nothing more, since it finds nothing.
                    self._finish()
            elif deadly and process.state != STOPPED:
                pod.status = 128 + request.signal
                await pod.stop()
            return
        if process.state == CREATED:
            async with process.lock:
                if process.state == CREATED and deadly:
                    if not request.exec_id:
                        await self._signal(container.id, container.id, SIGKILL, suppress=True)
                    pod.ended(process, 128 + request.signal)
        if process.alive:
            name = "" if request.all and not request.exec_id else process.name
            await self._signal(container.id, name, request.signal)

    async def _signal(self, container_id: str, name: str, signal: int, *, suppress: bool = False) -> None:
        message = agent_pb2.SignalProcessRequest(container_id=container_id, exec_id=name, signal=signal)
        with contextlib.suppress(*((errors.SealpodError,) if suppress else (errors.UnavailableError,))):
            # Without a guest the process is over, which its waiters are told.
            await self._pod.call("SignalProcess", message)

    async def _delete(self, request: Message) -> Message:
        pod = self._pod
        container = pod.container(request.id)
        if container.making is not None:
            await container.take_back()
            return _deleted(pod.pid, KILLED, time.time_ns())
        process = container.process(request.exec_id)
        async with process.lock:
            if pod.container(request.id).process(request.exec_id) is not process:
                raise errors.NotFoundError(f"{process.name} does not exist", code="shim.unknown")
            if request.exec_id:
                container.require(process, "deleted", STOPPED, CREATED)
                pod.ended(process, KILLED)
                container.remove(request.exec_id)
            else:
                if not container.virtual:
                    container.require(process, "deleted", STOPPED, CREATED)
                await self._remove(container)
        answer = _deleted(pod.pid, process.exit_status, process.exited_at)
        if not request.exec_id:
            fields = {name: getattr(answer, name) for name in ("pid", "exit_status", "exited_at")}
            pod.publish("TaskDelete", container_id=container.id, **fields)
        return answer

    async def _remove(self, container: Container) -> None:
        pod = self._pod
        if container.owner:
            await pod.stop()
        else:
            with contextlib.suppress(errors.SealpodError):
                message = agent_pb2.RemoveContainerRequest(container_id=container.id)
                await pod.call("RemoveContainer", message)
        for process in container.processes():
            pod.ended(process, KILLED)
        if pod.volumes is not None:
            pod.volumes.forget(container.id)
        pod.containers.pop(container.id, None)
        pod.release(container.id)

    async def _shutdown(self, request: Message) -> None:
        for container in list(self._pod.containers.values()):
            if container.owner and container.making is not None:
                await container.take_back()
                self._pod.containers.pop(container.id, None)
        if not self._pod.containers:
            self._finish()


async def resize(pod: Pod, process: Process) -> None:
    """Tell the guest the size of a process's terminal. Not worth failing for."""
    if process.size is None or not process.stdio.terminal or not process.alive:
        return
    width, height = process.size
    message = agent_pb2.TtyWinResizeRequest(
        container_id=process.container_id, exec_id=process.name, row=height, column=width
    )
    with contextlib.suppress(errors.SealpodError):
        await pod.call("TtyWinResize", message)


def decode_object(packed: Message) -> dict[str, Any]:
    """The JSON object in an ``Any``. DecodeError (``shim.spec``)."""
    try:
        document = json.loads(packed.value or b"{}")
    except ValueError as exc:
        raise errors.DecodeError("what containerd sent is not JSON", code="shim.spec") from exc
    if not isinstance(document, dict):
        raise errors.DecodeError("what containerd sent is no JSON object", code="shim.spec")
    return document


def _stdio(request: Message) -> Stdio:
    return Stdio(request.stdin, request.stdout, request.stderr, bool(request.terminal))


def _deleted(pid: int, status: int, at: int) -> Message:
    return MESSAGES.new("DeleteResponse", pid=pid, exit_status=status, exited_at=timestamp(at))
