# SPDX-License-Identifier: Apache-2.0
"""One booted guest with a pod in it, and calls on its agent as the runtime makes them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

from labkit import MEMORY, Lab

from sealpod.guestimage.cache import cache_directory
from sealpod.sandbox.agent import AgentClient
from sealpod.sandbox.host import HostOptions, open_host
from sealpod.sandbox.launch import launch_guest
from sealpod.sandbox.network import NAMESERVER, from_guest
from sealpod.sandbox.spec import PodSpec
from sealpod.sandbox.timeline import Observation, Timeline
from sealpod.sev.policy import Policy
from sealpod.wire.pb import agent_pb2, oci_pb2

ROOT = "/run/kata-containers"


@contextlib.asynccontextmanager
async def booted(lab: Lab, *words: str, vsock: bool = False) -> AsyncIterator[AgentClient]:
    """A guest with an empty pod; ``words`` are added to its kernel command line."""
    spec = PodSpec(
        files=lab.files,
        policy=Policy(3),
        kbc="none",
        memory=int(MEMORY),
        insecure_registries=(from_guest(lab.registry),),
        extra_cmdline=words,
        vsock=vsock,
    )
    options = HostOptions(cache_directory(), platform_state=lab.state, accelerator=lab.accelerator)
    async with (
        open_host(options, lambda _note: None) as host,
        launch_guest(host, spec, Observation(Timeline())) as guest,
    ):
        await guest.agent.configure_network()
        request = agent_pb2.CreateSandboxRequest(
            hostname="a-pod", sandbox_id="s1", dns=[f"nameserver {NAMESERVER}"]
        )
        await guest.agent.call("CreateSandbox", request)
        yield guest.agent


class GuestPod:
    """Containers and processes in it, from a test that is not asynchronous."""

    def __init__(self, agent: AgentClient, runner: asyncio.Runner, lab: Lab) -> None:
        self.agent = agent
        self.wait: Callable[..., Any] = runner.run
        self._image = lab.image("plain").replace(lab.registry, from_guest(lab.registry))
        self._numbers = itertools.count()

    def call(self, request: Any, answer: Any = None) -> Any:
        """A method of the agent; its name is the request's."""
        method = type(request).__name__.removesuffix("Request")
        payload = self.wait(self.agent.call(method, request, seconds=600))
        if answer is not None:
            answer.ParseFromString(payload)
        return answer

    def start(self, *args: str, **limits: Any) -> str:
        """A container that runs a command; ``limits`` are its ``LinuxResources``."""
        name = f"c{next(self._numbers)}"
        spec = oci_pb2.Spec(Process=oci_pb2.Process(Args=args))
        spec.Linux.Resources.CopyFrom(oci_pb2.LinuxResources(**limits))
        request = agent_pb2.CreateContainerRequest(container_id=name, exec_id=name, OCI=spec)
        mount_point = f"{ROOT}/{name}/rootfs"
        request.storages.add(driver="image_guest_pull", source=self._image, mount_point=mount_point)
        self.call(request)
        self.wait(self.agent.start_container(name))
        return name

    def run(self, name: str, exec_id: str, *args: str) -> tuple[int, bytes]:
        """A process beside a container's first, to its end: status and output."""
        ids = {"container_id": name, "exec_id": exec_id}
        process = oci_pb2.Process(Args=args)
        self.call(agent_pb2.ExecProcessRequest(process=process, **ids))  # type: ignore[arg-type]
        output = self.output(name, exec_id)
        return self.call(agent_pb2.WaitProcessRequest(**ids), agent_pb2.WaitProcessResponse()).status, output

    def output(self, name: str, exec_id: str = "", size: int = 1 << 20) -> bytes:
        """All that a process writes."""

        async def collect() -> bytes:
            pieces = self.agent.output(name, "ReadStdout", exec_id=exec_id or name, size=size)
            return b"".join([piece async for piece in pieces])

        return bytes(self.wait(collect()))

    def status(self, name: str) -> int:
        """A container's exit status."""
        return int(self.wait(self.agent.wait_process(name)))

    def signal(self, name: str, number: int, exec_id: str = "") -> None:
        """To one process, or to all of the container."""
        self.call(agent_pb2.SignalProcessRequest(container_id=name, exec_id=exec_id, signal=number))

    def remove(self, name: str) -> None:
        """End a container."""
        self.call(agent_pb2.RemoveContainerRequest(container_id=name))
