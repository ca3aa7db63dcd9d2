# SPDX-License-Identifier: Apache-2.0
"""containerd's Task service for one pod.

The pod's own container has no process in the guest: creating it boots the virtual machine, killing it ends
the machine. Every other container is made in the guest by its agent. Process ids are QEMU's, the one process
of the host that stands for them all.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

from sealpod import errors
from sealpod.sandbox.podvm import PodRequest, PodVm
from sealpod.shim import agentspec, bundle, imagename, metrics
from sealpod.shim.container import Container
from sealpod.shim.context import ShimContext
from sealpod.shim.events import EventSink
from sealpod.shim.process import KILLED, Process, Stdio
from sealpod.shim.volumes import Volumes
from sealpod.wire import taskapi
from sealpod.wire.message import Message
from sealpod.wire.pb import agent_pb2
from sealpod.wire.taskapi import MESSAGES, METHODS

PULL_SECONDS: Final = 600.0  # a guest may take for an image
MAX_CONTAINERS: Final = 64
INSPECTION: Final = "sealpod.Sandbox"

StartPod = Callable[[PodRequest], Awaitable[PodVm]]
Handler = Callable[[bytes], Awaitable[bytes]]
Method = Callable[[Message], Awaitable["Message | None"]]


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
        self._context = context
        self._events = events
        self._start_pod = start_pod
        self._say = say
        self._containers: dict[str, Container] = {}
        self._creating: dict[str, asyncio.Task[Container]] = {}
        self._vm: PodVm | None = None
        self._volumes: Volumes | None = None
        self._background: list[asyncio.Task[None]] = []

    def methods(self) -> dict[tuple[str, str], Handler]:
        """Handlers by service and method."""
        table: dict[tuple[str, str], Handler] = {}
        for name, (request, response) in METHODS.items():
            if name == "Checkpoint":
                continue  # answered as not implemented: a guest's memory never leaves it
            method: Method = getattr(self, f"_{_snake(name)}")
            for service in (taskapi.TASK, taskapi.TASK_V3):
                table[service, name] = _handler(method, request, response)
        for name in ("Inspect", "Console", "Metrics"):
            table[INSPECTION, name] = getattr(self, f"_{_snake(name)}")
        return table

    async def close(self) -> None:
        """End the pod and everything of it."""
        for task in list(self._creating.values()):
            task.cancel()
        await asyncio.gather(*self._creating.values(), return_exceptions=True)
        await self._end_machine(KILLED)

    # A container's life

    async def _create(self, request: Message) -> Message:
        if request.id in self._containers or request.id in self._creating:
            raise errors.ConflictError(f"container {request.id} exists already", code="shim.exists")
        if len(self._containers) >= MAX_CONTAINERS:
            raise errors.UsageError(f"a pod has {MAX_CONTAINERS} containers at most", code="shim.many")
        task = asyncio.create_task(self._make(request))
        self._creating[request.id] = task
        try:
            container = await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise errors.InterruptError(
                "the container was taken back while it was made", code="shim.cancelled"
            ) from None
        finally:
            del self._creating[request.id]
        self._containers[request.id] = container
        io = MESSAGES.new(
            "TaskIO",
            stdin=request.stdin,
            stdout=request.stdout,
            stderr=request.stderr,
            terminal=request.terminal,
        )
        self._publish(
            "TaskCreate",
            container_id=request.id,
            bundle=request.bundle,
            rootfs=request.rootfs,
            io=io,
            pid=self._pid,
        )
        return MESSAGES.new("CreateTaskResponse", pid=self._pid)

    async def _make(self, request: Message) -> Container:
        try:
            config = bundle.read_config(request.bundle)
        except (OSError, ValueError) as exc:
            text = f"the bundle {request.bundle} cannot be read: {exc}"
            raise errors.DecodeError(text, code="shim.bundle") from exc
        annotations = bundle.annotations_of(config)
        stdio = Stdio(request.stdin, request.stdout, request.stderr, bool(request.terminal))
        member = bundle.is_member(annotations)
        container = Container(request.id, request.bundle, stdio, virtual=bundle.is_sandbox(annotations))
        if member:
            if self._vm is None:
                text = "BUG: Cannot start the container, since the sandbox hasn't been created"
                raise errors.VerificationError(text, code="shim.no-sandbox")
        else:
            if self._vm is not None or len(self._creating) > 1:
                text = f"cannot create another sandbox in sandbox: {self._context.id}"
                raise errors.ConflictError(text, code="shim.exists")
            await self._boot(request, config, annotations)
        if container.virtual:
            return container
        try:
            container.init.open_streams()
            await self._make_in_guest(container, request, config, annotations)
        except BaseException as exc:
            container.init.end(KILLED)
            if not member:
                await self._end_machine(KILLED)
            if isinstance(exc, OSError):
                text = f"cannot open the container's streams: {exc.strerror}"
                raise errors.OperationError(text, code="shim.streams") from exc
            raise
        return container

    async def _boot(self, request: Message, config: dict[str, Any], annotations: dict[str, str]) -> None:
        pod = PodRequest(
            id=request.id,
            namespace=self._context.namespace,
            runtime=self._context.runtime,
            config_path=_config_path(request),
            annotations=annotations,
            netns=_network_namespace(config),
            hostname=str(config.get("hostname") or ""),
            dns=_dns(config),
            socket=self._context.socket,
            bundle=request.bundle,
        )
        self._vm = vm = await self._start_pod(pod)
        self._volumes = Volumes(vm.agent, request.id)
        self._background = [
            asyncio.create_task(self._watch_machine(vm)),
            asyncio.create_task(self._watch_memory(vm)),
        ]

    async def _make_in_guest(
        self, container: Container, request: Message, config: dict[str, Any], annotations: dict[str, str]
    ) -> None:
        vm, volumes = self._machine(), self._volumes
        if volumes is None:
            raise self._gone()
        image = await imagename.find(annotations, request.rootfs, self._context, request.id)
        mounts, storages = await volumes.bring(container.id, config.get("mounts") or ())
        message = agentspec.create_request(
            container.id, config, vm.settings.image_reference(image), mounts, storages
        )
        message.OCI.Process.Terminal = container.init.stdio.terminal
        await vm.agent.call("CreateContainer", message, seconds=PULL_SECONDS)

    async def _start(self, request: Message) -> Message:
        container = self._container(request.id)
        process = container.process(request.exec_id)
        async with container.lock:
            container.require(process, taskapi.CREATED, "started")
            if container.virtual:
                process.state = taskapi.RUNNING
            elif request.exec_id:
                await self._start_exec(container, process)
            else:
                vm = self._machine()
                await vm.agent.start_container(container.id)
                self._announce(container, process)
                process.run(vm.agent, self._ended)
            if container.virtual:
                self._announce(container, process)
            await self._resize(process)
        return MESSAGES.new("StartResponse", pid=self._pid)

    async def _start_exec(self, container: Container, process: Process) -> None:
        vm = self._machine()
        try:
            process.open_streams()
            spec = container.specs[process.exec_id]
            message = agentspec.exec_request(container.id, process.exec_id, spec, process.stdio.terminal)
            await vm.agent.call("ExecProcess", message)
        except BaseException as exc:
            self._ended(process, KILLED if isinstance(exc, asyncio.CancelledError) else 126)
            if isinstance(exc, OSError):
                text = f"cannot open the process's streams: {exc.strerror}"
                raise errors.OperationError(text, code="shim.streams") from exc
            raise
        self._announce(container, process)
        process.run(vm.agent, self._ended)

    def _announce(self, container: Container, process: Process) -> None:
        if process.exec_id:
            self._publish(
                "TaskExecStarted", container_id=container.id, exec_id=process.exec_id, pid=self._pid
            )
        else:
            self._publish("TaskStart", container_id=container.id, pid=self._pid)

    async def _exec(self, request: Message) -> None:
        container = self._container(request.id)
        if container.virtual:
            text = "nothing can be run in the pod's own container"
            raise errors.UsageError(text, code="shim.virtual", remedy="name one of the pod's containers")
        try:
            spec = json.loads(request.spec.value)
        except ValueError as exc:
            raise errors.DecodeError("the process's specification is not JSON", code="shim.spec") from exc
        stdio = Stdio(request.stdin, request.stdout, request.stderr, bool(request.terminal))
        container.add(request.exec_id, stdio, spec)
        self._publish("TaskExecAdded", container_id=container.id, exec_id=request.exec_id)

    async def _delete(self, request: Message) -> Message:
        for task in [self._creating[request.id]] if request.id in self._creating else []:
            task.cancel()
        container = self._container(request.id)
        process = container.process(request.exec_id)
        async with container.lock:
            if request.exec_id:
                container.require(process, taskapi.STOPPED, "deleted", also=taskapi.CREATED)
                container.remove(request.exec_id)
            else:
                await self._remove(container)
        answer = {
            "pid": self._pid,
            "exit_status": process.exit_status,
            "exited_at": taskapi.timestamp(process.exited_at),
        }
        if not request.exec_id:
            self._publish("TaskDelete", container_id=container.id, **answer)
        return MESSAGES.new("DeleteResponse", **answer)

    async def _remove(self, container: Container) -> None:
        if container.virtual or len(self._containers) == 1:
            await self._end_machine(KILLED)
        elif self._vm is not None:
            with contextlib.suppress(errors.SealpodError):
                await self._vm.agent.call(
                    "RemoveContainer", agent_pb2.RemoveContainerRequest(container_id=container.id)
                )
        for process in container.processes():
            self._ended(process, KILLED)
        if self._volumes is not None:
            self._volumes.forget(container.id)
        self._containers.pop(container.id, None)

    # Signals and streams

    async def _kill(self, request: Message) -> None:
        if request.id in self._creating:
            self._creating[request.id].cancel()
            return
        container = self._container(request.id)
        process = container.process(request.exec_id)
        if process.state == taskapi.STOPPED:
            return
        if container.virtual:
            self._keep(self._end_machine(128 + request.signal))
            return
        if request.exec_id and process.state == taskapi.CREATED:
            self._ended(process, 128 + request.signal)
            return
        name = "" if request.all and not request.exec_id else process.name
        message = agent_pb2.SignalProcessRequest(
            container_id=container.id, exec_id=name, signal=request.signal
        )
        await self._machine().agent.call("SignalProcess", message)
        if process.state == taskapi.CREATED and request.signal in (9, 15):
            self._ended(process, 128 + request.signal)

    async def _resize_pty(self, request: Message) -> None:
        container = self._container(request.id)
        process = container.process(request.exec_id)
        process.size = (request.width, request.height)
        if process.state == taskapi.RUNNING and not container.virtual:
            await self._resize(process)

    async def _resize(self, process: Process) -> None:
        if process.size is None or not process.stdio.terminal:
            return
        width, height = process.size
        message = agent_pb2.TtyWinResizeRequest(
            container_id=process.container_id, exec_id=process.name, row=height, column=width
        )
        await self._machine().agent.call("TtyWinResize", message)

    async def _close_io(self, request: Message) -> None:
        process = self._container(request.id).process(request.exec_id)
        if request.stdin and process.state == taskapi.RUNNING and self._vm is not None:
            await process.close_input(self._vm.agent)

    async def _wait(self, request: Message) -> Message:
        process = self._container(request.id).process(request.exec_id)
        await process.wait()
        return MESSAGES.new(
            "WaitResponse",
            exit_status=process.exit_status,
            exited_at=taskapi.timestamp(process.exited_at),
        )

    # Questions

    async def _state(self, request: Message) -> Message:
        container = self._container(request.id)
        process = container.process(request.exec_id)
        answer = MESSAGES.new(
            "StateResponse",
            id=container.id,
            bundle=container.bundle,
            pid=self._pid,
            status=container.status(process),
            stdin=process.stdio.stdin,
            stdout=process.stdio.stdout,
            stderr=process.stdio.stderr,
            terminal=process.stdio.terminal,
            exit_status=process.exit_status,
            exec_id=request.exec_id,
        )
        if process.exited_at:
            answer.exited_at = taskapi.timestamp(process.exited_at)
        return answer

    async def _pids(self, request: Message) -> Message:
        self._container(request.id)
        return MESSAGES.new("PidsResponse", processes=[MESSAGES.new("ProcessInfo", pid=self._pid)])

    async def _connect(self, request: Message) -> Message:
        self._container(request.id)
        return MESSAGES.new("ConnectResponse", shim_pid=os.getpid(), task_pid=self._pid)

    async def _stats(self, request: Message) -> Message:
        container = self._container(request.id)
        stats = agent_pb2.StatsContainerResponse()
        if not container.virtual:
            message = agent_pb2.StatsContainerRequest(container_id=container.id)
            stats.ParseFromString(await self._machine().agent.call("StatsContainer", message))
        return MESSAGES.new("StatsResponse", stats=metrics.pack(stats))

    # The rest of the pod

    async def _pause(self, request: Message) -> None:
        await self._freeze(request.id, paused=True)

    async def _resume(self, request: Message) -> None:
        await self._freeze(request.id, paused=False)

    async def _freeze(self, container_id: str, *, paused: bool) -> None:
        container = self._container(container_id)
        async with container.lock:
            container.require(container.init, taskapi.RUNNING, "paused or resumed")
            if not container.virtual:
                message = (
                    agent_pb2.PauseContainerRequest(container_id=container.id)
                    if paused
                    else agent_pb2.ResumeContainerRequest(container_id=container.id)
                )
                await self._machine().agent.call("PauseContainer" if paused else "ResumeContainer", message)
            container.paused = paused
        self._publish("TaskPaused" if paused else "TaskResumed", container_id=container_id)

    async def _update(self, request: Message) -> None:
        container = self._container(request.id)
        try:
            resources = json.loads(request.resources.value or b"{}")
        except ValueError as exc:
            raise errors.DecodeError("the resources are not JSON", code="shim.spec") from exc
        if not container.virtual:
            message = agent_pb2.UpdateContainerRequest(
                container_id=container.id, resources=agentspec.resources_of(resources)
            )
            await self._machine().agent.call("UpdateContainer", message)

    async def _shutdown(self, request: Message) -> None:
        if not self._containers and not self._creating:
            self.finished.set()

    async def _inspect(self, payload: bytes) -> bytes:
        description: dict[str, object] = dict(self._vm.describe()) if self._vm is not None else {}
        description["containers"] = [container.describe() for container in self._containers.values()]
        return json.dumps(description).encode()

    async def _console(self, payload: bytes) -> bytes:
        lines = self._vm.console(400) if self._vm is not None else ()
        return json.dumps({"lines": list(lines)}).encode()

    async def _metrics(self, payload: bytes) -> bytes:
        answer = await self._machine().agent.call("GetMetrics", agent_pb2.GetMetricsRequest())
        return json.dumps({"metrics": agent_pb2.Metrics.FromString(answer).metrics}).encode()

    # What happens without being asked for

    def _ended(self, process: Process, status: int) -> None:
        """A process is over, however that was learnt: the first news counts."""
        began = process.state != taskapi.CREATED
        if process.end(status) and (began or not process.exec_id):
            self._publish(
                "TaskExit",
                container_id=process.container_id,
                id=process.name,
                pid=self._pid,
                exit_status=status,
                exited_at=taskapi.timestamp(process.exited_at),
            )

    async def _watch_machine(self, vm: PodVm) -> None:
        error = await vm.wait()
        self._say(f"the pod's guest is gone: {error.one_line()}")
        self._end_processes(KILLED)

    async def _watch_memory(self, vm: PodVm) -> None:
        with contextlib.suppress(errors.SealpodError):
            while True:
                answer = await vm.agent.call("GetOOMEvent", agent_pb2.GetOOMEventRequest(), seconds=None)
                container_id = agent_pb2.OOMEvent.FromString(answer).container_id
                if container_id in self._containers:
                    self._publish("TaskOOM", container_id=container_id)

    async def _end_machine(self, status: int) -> None:
        vm = self._vm
        if vm is not None:
            await vm.stop()
        self._end_processes(status)
        current = asyncio.current_task()
        for task in self._background:
            if task is not current:
                task.cancel()
        if self._volumes is not None:
            self._volumes.close()

    def _end_processes(self, status: int) -> None:
        # The pod's own container ends last: containerd takes its end for the pod's.
        for container in sorted(self._containers.values(), key=lambda one: one.virtual):
            for process in container.processes():
                self._ended(process, status)

    def _keep(self, work: Awaitable[None]) -> None:
        self._background.append(asyncio.ensure_future(work))

    # Small things

    @property
    def _pid(self) -> int:
        return self._vm.pid if self._vm is not None else os.getpid()

    def _container(self, container_id: str) -> Container:
        container = self._containers.get(container_id)
        if container is None:
            raise errors.NotFoundError(f"container {container_id} does not exist", code="shim.unknown")
        return container

    def _machine(self) -> PodVm:
        if self._vm is None:
            raise self._gone()
        return self._vm

    def _gone(self) -> errors.UnavailableError:
        return errors.UnavailableError("the pod has no running guest", code="shim.no-guest")

    def _publish(self, name: str, **fields: Any) -> None:
        self._events.publish(name, MESSAGES.new(name, **fields))


def _handler(method: Method, request: str, response: str) -> Handler:
    async def handle(payload: bytes) -> bytes:
        answer = await method(MESSAGES.decode(request, payload))
        return (answer or MESSAGES.new(response)).encode()

    return handle


def _snake(name: str) -> str:
    return {"CloseIO": "close_io"}.get(
        name, "".join(f"_{char.lower()}" if char.isupper() else char for char in name).lstrip("_")
    )


def _config_path(request: Message) -> str:
    if request.has("options") and request.options.type_url in taskapi.OPTIONS_URLS:
        return str(MESSAGES.decode("Options", request.options.value).config_path)
    return ""


def _network_namespace(config: dict[str, Any]) -> str:
    for one in (config.get("linux") or {}).get("namespaces") or ():
        if one.get("type") == "network":
            return str(one.get("path") or "")
    return ""


def _dns(config: dict[str, Any]) -> tuple[str, ...]:
    for mount in config.get("mounts") or ():
        if mount.get("destination") == "/etc/resolv.conf":
            with (
                contextlib.suppress(OSError),
                open(mount["source"], encoding="utf-8", errors="replace") as file,
            ):
                return tuple(file.read(65536).splitlines())
    return ()
