# SPDX-License-Identifier: Apache-2.0
"""The guest's half of vsock on a real virtio device: its driver, the agent's listener, a pod over it.

The device is served by ``vhost-device-vsock`` (``cargo install vhost-device-vsock``), without which this is
left out; it needs nothing of this machine's kernel. In the place of three calls of the host's half stand the
daemon's; those are in test_vsock_host.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import socket
from collections.abc import Iterator

import guestpod
import pytest
from guestpod import GuestPod
from hybridvsock import PROGRAM, HybridVsock
from labkit import Lab, hosted

from sealpod.qemu import machine, vsock
from sealpod.sandbox.agent import AgentClient
from sealpod.sandbox.channel import Channel
from sealpod.wire.pb import agent_pb2, oci_pb2

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(shutil.which(PROGRAM) is None, reason=f"{PROGRAM} is not installed"),
]

MUCH = 2 << 20
PIECE = 16 << 10
"""Bytes of one answer: the guest's kernel makes packets of more than 32 KiB of many descriptors, and the
daemon (0.3.0) loses those of more than two. On the kernel's own device: test_vsock_host.py."""
BOX = "/bin/busybox"
SLEEP = (BOX, "sleep", "1000")


@pytest.fixture(scope="module")
def daemon(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HybridVsock]:
    with hosted(runner, HybridVsock(tmp_path_factory.mktemp("vsock")).running()) as made:
        yield made


@pytest.fixture(scope="module")
def pod(lab: Lab, runner: asyncio.Runner, daemon: HybridVsock) -> Iterator[GuestPod]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vsock, "reserve", daemon.reserve)
        patch.setattr(vsock, "dial", daemon.dial)
        patch.setattr(machine, "build_arguments", daemon.arguments(machine.build_arguments))
        with hosted(runner, guestpod.booted(lab, vsock=True)) as agent:
            yield GuestPod(agent, runner, lab)


def test_the_agent_came_over_vsock(pod: GuestPod, daemon: HybridVsock) -> None:
    assert daemon.dialled > 0
    # It had to be waited for: before its driver and its agent were there, nobody answered.
    assert daemon.refused > 0


def test_a_container_runs_and_programs_in_it(pod: GuestPod) -> None:
    name = pod.start(*SLEEP)
    shown = "".join(f"{word}\0" for word in SLEEP)
    assert pod.run(name, "e1", BOX, "cat", "/proc/1/cmdline") == (0, shown.encode())
    assert pod.run(name, "e2", BOX, "sh", "-c", "echo no; exit 3") == (3, b"no\n")
    pod.remove(name)


def test_much_output_is_whole(pod: GuestPod) -> None:
    name = pod.start(*SLEEP)
    command = f"{BOX} yes sealpod | {BOX} head -c {MUCH}"
    process = oci_pb2.Process(Args=(BOX, "sh", "-c", command))
    pod.call(agent_pb2.ExecProcessRequest(container_id=name, exec_id="much", process=process))
    output = pod.output(name, "much", PIECE)
    wanted = (b"sealpod\n" * (MUCH // 8 + 1))[:MUCH]
    assert hashlib.sha256(output).digest() == hashlib.sha256(wanted).digest()
    pod.remove(name)


def test_other_connections_see_the_same_pod(
    pod: GuestPod, daemon: HybridVsock, runner: asyncio.Runner, lab: Lab
) -> None:
    """Beside the first and one after the other, as a host process that comes back."""
    name = pod.start(*SLEEP)

    async def connect() -> tuple[socket.socket, Channel]:
        connection = await daemon.connect()
        return connection, Channel(connection, "the guest's agent")

    for exec_id in ("a", "b", "c"):
        connection, channel = runner.run(connect())
        other = GuestPod(AgentClient(channel), runner, lab)
        assert other.run(name, exec_id, BOX, "echo", exec_id) == (0, f"{exec_id}\n".encode())
        runner.run(channel.close())
        connection.close()
    assert pod.run(name, "still", BOX, "true") == (0, b"")
    pod.remove(name)


def test_a_port_nobody_listens_on_is_refused(pod: GuestPod, daemon: HybridVsock) -> None:
    with pytest.raises(OSError, match="1025"):
        pod.wait(daemon.connect(1025))
