# SPDX-License-Identifier: Apache-2.0
"""The guest's agent as the host calls it: Kata's ``grpc.AgentService`` and ``grpc.Health`` over ttrpc."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final, Protocol

from sealpod.errors import SealpodError
from sealpod.kataconfig.limits import CREATE_SECONDS
from sealpod.sandbox import network
from sealpod.sandbox.channel import Channel
from sealpod.wire.pb import agent_pb2, health_pb2, oci_pb2, types_pb2

AGENT: Final = "grpc.AgentService"
HEALTH: Final = "grpc.Health"
SHORT: Final = 60.0  # seconds, Kata's limit for calls that do not wait for a person or a network
READ_LENGTH: Final = 256 << 10  # bytes asked for per read of a container's output
END_OF_OUTPUT: Final = ("read meet eof", "eof")


class _Message(Protocol):
    def SerializeToString(self) -> bytes: ...  # noqa: N802 - protobuf's name


class AgentClient:
    """Typed calls over a :class:`Channel`. Every method raises the error the agent's status stands for."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def check(self, *, seconds: float | None = None) -> None:
        """Return when the agent serves. ``seconds`` None waits as long as the channel lives."""
        await self._channel.call(HEALTH, "Check", _bytes(health_pb2.CheckRequest()), seconds=seconds)

    async def configure_network(self) -> None:
        """Give the guest its place in QEMU's user network."""
        interface = types_pb2.Interface(
            device="eth0",
            name="eth0",
            hwAddr=network.HARDWARE_ADDRESS,
            mtu=1500,
            IPAddresses=[types_pb2.IPAddress(address=network.GUEST, mask=network.PREFIX)],
        )
        await self.call("UpdateInterface", agent_pb2.UpdateInterfaceRequest(interface=interface))
        route = types_pb2.Route(gateway=network.GATEWAY, device="eth0")
        await self.call(
            "UpdateRoutes", agent_pb2.UpdateRoutesRequest(routes=agent_pb2.Routes(Routes=[route]))
        )

    async def create_sandbox(self, sandbox_id: str, hostname: str, dns: Sequence[str]) -> None:
        """Prepare the guest for containers."""
        await self.call(
            "CreateSandbox",
            agent_pb2.CreateSandboxRequest(sandbox_id=sandbox_id, hostname=hostname, dns=dns),
        )

    async def create_container(self, container_id: str, image: str, args: Sequence[str]) -> None:
        """Have the guest pull ``image`` and make a container of it. Empty ``args``: the image's own."""
        rootfs = f"/run/kata-containers/{container_id}/rootfs"
        storage = agent_pb2.Storage(
            driver="image_guest_pull", source=image, fstype="overlay", mount_point=rootfs
        )
        spec = oci_pb2.Spec(
            Version="1.0.2",
            Process=oci_pb2.Process(Args=args),
            Root=oci_pb2.Root(Path=rootfs),
            Annotations={"io.kubernetes.cri.image-name": image},
        )
        request = agent_pb2.CreateContainerRequest(
            container_id=container_id, exec_id=container_id, storages=[storage], OCI=spec
        )
        await self.call("CreateContainer", request, seconds=CREATE_SECONDS)

    async def start_container(self, container_id: str) -> None:
        """Let the container's process run."""
        await self.call("StartContainer", agent_pb2.StartContainerRequest(container_id=container_id))

    async def wait_process(self, container_id: str) -> int:
        """The exit status of the container's process: its own, or 128 + signal."""
        request = agent_pb2.WaitProcessRequest(container_id=container_id, exec_id=container_id)
        answer = agent_pb2.WaitProcessResponse()
        answer.ParseFromString(await self._channel.call(AGENT, "WaitProcess", _bytes(request)))
        return int(answer.status)

    async def signal_process(self, container_id: str, signal: int) -> None:
        """Send a signal to the container's process."""
        request = agent_pb2.SignalProcessRequest(
            container_id=container_id, exec_id=container_id, signal=signal
        )
        await self.call("SignalProcess", request)

    async def output(
        self, container_id: str, method: str, *, exec_id: str = "", size: int = READ_LENGTH
    ) -> AsyncIterator[bytes]:
        """What a process writes, piece by piece, until its end. ``method``: ReadStdout or ReadStderr.

        An empty ``exec_id`` means the container's first process; ``size`` is the most of one piece.
        """
        request = _bytes(
            agent_pb2.ReadStreamRequest(container_id=container_id, exec_id=exec_id or container_id, len=size)
        )
        while True:
            try:
                payload = await self._channel.call(AGENT, method, request)
            except SealpodError as error:
                # The agent API has no other way to say that the stream is over.
                if error.message in END_OF_OUTPUT:
                    return
                raise
            answer = agent_pb2.ReadStreamResponse()
            answer.ParseFromString(payload)
            yield answer.data

    async def destroy_sandbox(self) -> None:
        """End the guest."""
        await self.call("DestroySandbox", agent_pb2.DestroySandboxRequest())

    async def call(self, method: str, request: _Message, *, seconds: float | None = SHORT) -> bytes:
        """Any method of ``grpc.AgentService``: the answer's bytes. ``seconds`` None waits for ever."""
        return await self._channel.call(AGENT, method, _bytes(request), seconds=seconds)


def _bytes(message: _Message) -> bytes:
    return message.SerializeToString()
