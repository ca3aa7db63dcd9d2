# SPDX-License-Identifier: Apache-2.0
"""Task's methods that ask about or change what runs: State, Wait, Stats, Pause, Update and the like.

State, Wait, Pids and Connect are answered from memory, whatever the guest does.
"""

from __future__ import annotations

import os

from sealpod.errors import NotFoundError
from sealpod.shim import agentspec, metrics
from sealpod.shim.lifecycle import Method, decode_object, resize
from sealpod.shim.pod import Pod
from sealpod.wire.message import Message
from sealpod.wire.pb import agent_pb2
from sealpod.wire.taskapi import MESSAGES, PAUSED, RUNNING, UNKNOWN, timestamp


class Control:
    """Requests in, calls on the pod, answers out."""

    def __init__(self, pod: Pod) -> None:
        self._pod = pod

    def table(self) -> dict[str, Method]:
        """Functions by the method's name."""
        return {
            "State": self._state,
            "Wait": self._wait,
            "Pids": self._pids,
            "Connect": self._connect,
            "Stats": self._stats,
            "ResizePty": self._resize_pty,
            "CloseIO": self._close_io,
            "Pause": self._pause,
            "Resume": self._resume,
            "Update": self._update,
        }

    async def _state(self, request: Message) -> Message:
        container = self._pod.container(request.id)
        process = container.process(request.exec_id)
        # kubelet's cAdvisor finds a pod's control group while the pod is made, and asks for its process once:
        # of one that is created it would keep the number 0, and never have figures of the network.
        booting = container.virtual and container.making is not None
        answer = MESSAGES.new(
            "StateResponse",
            id=container.id,
            bundle=container.bundle,
            pid=self._pod.pid,
            status=UNKNOWN if booting else process.state,
            stdin=process.stdio.stdin,
            stdout=process.stdio.stdout,
            stderr=process.stdio.stderr,
            terminal=process.stdio.terminal,
            exit_status=process.exit_status,
            exec_id=request.exec_id,
        )
        if process.exited_at:
            answer.exited_at = timestamp(process.exited_at)
        return answer

    async def _wait(self, request: Message) -> Message:
        process = self._pod.container(request.id).process(request.exec_id)
        await process.wait()
        return MESSAGES.new(
            "WaitResponse", exit_status=process.exit_status, exited_at=timestamp(process.exited_at)
        )

    async def _pids(self, request: Message) -> Message:
        # After a restart containerd takes a container without processes for one to be cleaned away.
        self._pod.container(request.id)
        return MESSAGES.new("PidsResponse", processes=[MESSAGES.new("ProcessInfo", pid=self._pod.pid)])

    async def _connect(self, request: Message) -> Message:
        self._pod.container(request.id)
        return MESSAGES.new("ConnectResponse", shim_pid=os.getpid(), task_pid=self._pod.pid)

    async def _stats(self, request: Message) -> Message:
        container = self._pod.container(request.id)
        if container.making is not None:
            # kubelet asks all the time, and the guest prints what it refuses.
            raise NotFoundError(f"container {container.id} is still being made", code="shim.unknown")
        stats = agent_pb2.StatsContainerResponse()
        if not container.virtual:
            message = agent_pb2.StatsContainerRequest(container_id=container.id)
            stats.ParseFromString(await self._pod.call("StatsContainer", message))
        return MESSAGES.new("StatsResponse", stats=metrics.pack(stats))

    async def _resize_pty(self, request: Message) -> None:
        process = self._pod.container(request.id).process(request.exec_id)
        process.size = (request.width, request.height)
        await resize(self._pod, process)

    async def _close_io(self, request: Message) -> None:
        process = self._pod.container(request.id).process(request.exec_id)
        if request.stdin:
            process.close_input()

    async def _pause(self, request: Message) -> None:
        message = agent_pb2.PauseContainerRequest(container_id=request.id)
        await self._freeze(request.id, "Pause", message, RUNNING, PAUSED)

    async def _resume(self, request: Message) -> None:
        message = agent_pb2.ResumeContainerRequest(container_id=request.id)
        await self._freeze(request.id, "Resume", message, PAUSED, RUNNING)

    async def _freeze(self, container_id: str, verb: str, message: object, old: int, new: int) -> None:
        container = self._pod.container(container_id)
        process = container.init
        async with process.lock:
            container.require(process, f"{verb.lower()}d", old)
            if not container.virtual:
                await self._pod.call(f"{verb}Container", message)
            container.require(process, f"{verb.lower()}d", old)  # it may have ended meanwhile
            process.become(new)
            self._pod.publish(f"Task{verb}d", container_id=container_id)

    async def _update(self, request: Message) -> None:
        container = self._pod.container(request.id)
        wanted = decode_object(request.resources)
        resources = agentspec.resources_of(wanted)
        if (wanted.get("cpu") or {}).get("cpus"):
            self._pod.confine(container.id, wanted)
        if not container.virtual:
            message = agent_pb2.UpdateContainerRequest(container_id=container.id, resources=resources)
            await self._pod.call("UpdateContainer", message)
