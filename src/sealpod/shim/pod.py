# SPDX-License-Identifier: Apache-2.0
"""The pod: its machine, its containers, and what happens to them without being asked for.

The machine ends in one of two ways: it is stopped, or it is found gone. Either way every process ends once,
those of the pod's own container last, since containerd takes their end for the pod's, and every later call
that needs the guest is told why there is none.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from sealpod.errors import NotFoundError, SealpodError, UnavailableError
from sealpod.sandbox import hostmemory
from sealpod.shim.container import Container
from sealpod.shim.context import ShimContext
from sealpod.shim.events import EventSink
from sealpod.shim.process import KILLED, Process
from sealpod.shim.volumes import Volumes
from sealpod.wire.pb import agent_pb2
from sealpod.wire.taskapi import CREATED, MESSAGES, timestamp

if TYPE_CHECKING:
    from sealpod.sandbox.podvm import PodRequest, PodVm, StartPod

GONE: Final = "agent.gone"
"""The code of what a call says whose channel closed."""
VERDICT_SECONDS: Final = 6.0
"""How long a call that lost its guest waits for the reason; the watch finds it within its five seconds."""


class Pod:
    """State of one pod. ``containers`` also holds those that are being made."""

    def __init__(
        self,
        context: ShimContext,
        events: EventSink,
        start_pod: StartPod,
        say: Callable[[str], None],
    ) -> None:
        self.context = context
        self.containers: dict[str, Container] = {}
        self.vm: PodVm | None = None
        self.volumes: Volumes | None = None
        self.sysctls: dict[str, str] = {}
        """Kernel parameters of the pod's own container, which its members get."""
        self.status = KILLED
        """What the pod's own container ends with."""
        self._events = events
        self._start_pod = start_pod
        self._say = say
        self._gone: UnavailableError | None = None
        self._over = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()

    @property
    def pid(self) -> int:
        """QEMU's process id, the one process of the host that stands for all of the guest's; 0 without."""
        return self.vm.pid if self.vm is not None else 0

    async def boot(self, request: PodRequest) -> None:
        """Start the machine. Raises what its start raises, then nothing of it is left."""
        self.vm = vm = await self._start_pod(request)
        self.volumes = Volumes(vm.agent, request.id)
        self.keep(self._watch(vm))
        self.keep(self._tell_of_memory(vm))

    def machine(self) -> PodVm:
        """The machine. UnavailableError (``shim.no-guest``), with the reason, if there is none."""
        if self._gone is not None:
            raise UnavailableError(self._gone.message, code=self._gone.code, remedy=self._gone.remedy)
        if self.vm is None:
            raise UnavailableError("the pod has no running guest", code="shim.no-guest")
        return self.vm

    async def call(self, method: str, message: Any, *, seconds: float | None = 60.0) -> bytes:
        """Call the agent. When the guest is lost meanwhile, the error says how."""
        vm = self.machine()
        try:
            return await vm.agent.call(method, message, seconds=seconds)
        except UnavailableError as exc:
            if exc.code != GONE:
                raise
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(VERDICT_SECONDS):
                    await self._over.wait()
            self.machine()
            raise

    def confine(self, container_id: str, resources: Any) -> None:
        """Take over on the host which processors a container has; ``resources`` are those of OCI."""
        cpu = (resources or {}).get("cpu") or {}
        self.machine().confine(container_id, str(cpu.get("cpus") or ""), str(cpu.get("mems") or ""))

    def release(self, container_id: str) -> None:
        """The container is gone, and with it its claim on processors."""
        with contextlib.suppress(SealpodError):
            self.confine(container_id, {})

    async def stop(self) -> None:
        """End the machine, then every process. What was begun goes on when the caller goes away."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
        await asyncio.shield(self._stopping)

    async def close(self) -> None:
        """End everything of the pod."""
        for container in list(self.containers.values()):
            await container.take_back()
        await self.stop()
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` beside the calls, until it ends or the pod does."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def container(self, container_id: str) -> Container:
        """A container by its id. NotFoundError (``shim.unknown``)."""
        container = self.containers.get(container_id)
        if container is None:
            raise NotFoundError(f"container {container_id} does not exist", code="shim.unknown")
        return container

    def publish(self, name: str, **fields: Any) -> None:
        """Tell containerd."""
        self._events.publish(name, MESSAGES.new(name, **fields))

    def ended(self, process: Process, status: int) -> None:
        """A process is over, however that was learnt: the first news counts.

        Of a process beside the first that never ran, containerd expects to hear nothing.
        """
        told = not process.exec_id or process.state != CREATED
        if process.end(status) and told:
            self.publish(
                "TaskExit",
                container_id=process.container_id,
                id=process.name,
                pid=self.pid,
                exit_status=status,
                exited_at=timestamp(process.exited_at),
            )

    async def _watch(self, vm: PodVm) -> None:
        reason = await vm.wait()
        if self._stopping is not None:
            return
        # What is left of the machine stays until the pod is deleted: it is what there is to look at.
        text = f"the pod's guest is gone: {reason.message}"
        if reason.code == hostmemory.CODE:
            # All that a pod's owner sees of it: the reason OOMKilled.
            for container in self.containers.values():
                if container.making is None and not container.virtual:
                    self.publish("TaskOOM", container_id=container.id)
        self._end(text, reason.remedy, lost=True)
        self._say(text)

    async def _tell_of_memory(self, vm: PodVm) -> None:
        with contextlib.suppress(SealpodError):
            while True:
                answer = await vm.agent.call("GetOOMEvent", agent_pb2.GetOOMEventRequest(), seconds=None)
                container_id = agent_pb2.OOMEvent.FromString(answer).container_id
                container = self.containers.get(container_id)
                if container is not None and container.making is None:
                    self.publish("TaskOOM", container_id=container_id)

    async def _stop(self) -> None:
        try:
            if self.vm is not None:
                await self.vm.stop()
        except Exception as exc:  # noqa: BLE001 (waiters must return whatever went wrong)
            self._say(f"the pod's machine could not be stopped: {exc}")
        finally:
            self._end("the pod's guest was stopped", "")

    def _end(self, text: str, remedy: str, *, lost: bool = False) -> None:
        if self._gone is not None:
            return
        self._gone = UnavailableError(text, code="shim.no-guest", remedy=remedy)
        made = [one for one in self.containers.values() if one.making is None]
        for container in sorted(made, key=lambda one: one.virtual):
            for process in container.processes():
                if lost and process.alive and process.epitaph is not None:
                    process.epitaph(self._gone.one_line())
                self.ended(process, self.status if container.virtual else KILLED)
        if self.volumes is not None:
            self.volumes.close()
        self._over.set()
