# SPDX-License-Identifier: Apache-2.0
"""What only a booted guest can show of a pod: its kernel's namespaces, cgroups, parameters, and its settings.

The same things in a stand-in: tests/unit/agent/test_pod.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import stat
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from labkit import MEMORY, Lab, hosted

from sealpod.errors import SealpodError
from sealpod.guestimage.cache import cache_directory
from sealpod.sandbox.agent import AgentClient
from sealpod.sandbox.host import HostOptions, open_host
from sealpod.sandbox.launch import launch_guest
from sealpod.sandbox.network import NAMESERVER, from_guest
from sealpod.sandbox.spec import PodSpec
from sealpod.sandbox.timeline import Observation, Timeline
from sealpod.sev.policy import Policy
from sealpod.wire.pb import agent_pb2, oci_pb2

pytestmark = pytest.mark.e2e
ROOT = "/run/kata-containers"
SHARED = f"{ROOT}/shared/containers"
WORDS = (
    "agent.config_file=/etc/agent-config.toml",
    "agent.blocked_endpoints=PauseContainerRequest",
    "agent.privileged_containers=false",
)


@contextlib.asynccontextmanager
async def launched(lab: Lab) -> AsyncIterator[AgentClient]:
    spec = PodSpec(
        files=lab.files,
        policy=Policy(3),
        kbc="none",
        memory=int(MEMORY),
        insecure_registries=(from_guest(lab.registry),),
        extra_cmdline=WORDS,
    )
    options = HostOptions(cache_directory(), platform_state=lab.state, accelerator=lab.accelerator)
    async with (
        open_host(options, lambda _note: None) as host,
        launch_guest(host, spec, Observation(Timeline())) as guest,
    ):
        await guest.agent.configure_network()
        shm = agent_pb2.Storage(
            driver="ephemeral",
            source="shm",
            fstype="tmpfs",
            options=["mode=1777"],
            mount_point=f"{ROOT}/sandbox/shm",
        )
        request = agent_pb2.CreateSandboxRequest(
            hostname="a-pod", sandbox_id="s1", dns=[f"nameserver {NAMESERVER}"], storages=[shm]
        )
        await guest.agent.call("CreateSandbox", request)
        yield guest.agent


@pytest.fixture(scope="module")
def pod(lab: Lab, runner: asyncio.Runner) -> Iterator[Pod]:
    with lab.place.unchanged(), hosted(runner, launched(lab)) as agent:
        image = lab.image("plain").replace(lab.registry, from_guest(lab.registry))
        yield Pod(agent, runner, image)


class Pod:
    """Calls on one guest, one at a time."""

    def __init__(self, agent: AgentClient, runner: asyncio.Runner, image: str) -> None:
        self.agent = agent
        self.call = runner.run
        self._image = image
        self._numbers = itertools.count()

    def start(self, script: str, **more: Any) -> str:
        """A container that runs a shell script; its id."""
        name = f"c{next(self._numbers)}"
        spec = oci_pb2.Spec(Process=oci_pb2.Process(Args=["sh", "-c", script]))
        for destination, source in more.get("binds", {}).items():
            spec.Mounts.add(destination=destination, source=source, type="bind", options=["rbind"])
        spec.Linux.Sysctl.update(more.get("sysctl", {}))
        if "capabilities" in more:  # naming them, the request describes the process whole
            spec.Process.Capabilities.Bounding.extend(more["capabilities"])
        request = agent_pb2.CreateContainerRequest(
            container_id=name, exec_id=name, OCI=spec, sandbox_pidns=more.get("pidns", False)
        )
        rootfs = f"{ROOT}/{name}/rootfs"
        request.storages.add(driver="image_guest_pull", source=self._image, mount_point=rootfs)
        request.storages.extend(more.get("storages", ()))
        self.call(self.agent.call("CreateContainer", request, seconds=600))
        self.call(self.agent.start_container(name))
        return name

    def run(self, script: str, **more: Any) -> list[str]:
        """A container to its end: the lines it wrote."""
        name = self.start(script, **more)

        async def output() -> bytes:
            return b"".join([data async for data in self.agent.output(name, "ReadStdout")])

        lines = self.call(output()).decode().splitlines()
        assert self.call(self.agent.wait_process(name)) == 0
        return list(lines)


def test_what_containers_share(pod: Pod) -> None:
    script = "hostname; cat /etc/hostname; for n in ipc uts; do readlink /proc/self/ns/$n; done; "
    first = pod.run(script + "echo note > /dev/shm/note", sysctl={"kernel.shmmax": "4096000"})
    second = pod.run(script + "cat /dev/shm/note /proc/sys/kernel/shmmax")
    assert first[:4] == ["a-pod", "a-pod", *second[2:4]]
    assert second[4:] == ["note", "4096000"]


def test_shared_process_ids(pod: Pod) -> None:
    """The holder collects what is left behind, and a removed container takes its own with it."""
    orphans = (
        "(sleep 0 & exec sleep 0) & sleep 1; cat /proc/1/comm; grep -l '^State:.Z' /proc/[0-9]*/status; true"
    )
    assert pod.run(orphans, pidns=True) == ["pause"]
    stays = pod.start("sleep 77777 & sleep 77777", pidns=True)
    count = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -o 'sleep 7777[7]' | wc -l"
    assert pod.run(count, pidns=True) == ["2"]
    pod.call(pod.agent.call("RemoveContainer", agent_pb2.RemoveContainerRequest(container_id=stays)))
    assert pod.run(count, pidns=True) == ["0"]


def test_files_and_volumes(pod: Pod) -> None:
    request = agent_pb2.CopyFileRequest(
        path=f"{SHARED}/c-12345678-settings/key", data=b"value\n", file_size=6, file_mode=stat.S_IFREG | 0o644
    )
    pod.call(pod.agent.call("CopyFile", request))
    memory = agent_pb2.Storage(
        driver="ephemeral", options=["size=65536"], mount_point=f"{ROOT}/sandbox/ephemeral/cache"
    )
    binds = {"/settings": f"{SHARED}/c-12345678-settings", "/cache": memory.mount_point}
    script = (
        "cat /settings/key; df -k /cache | tail -1 | tr -s ' ' | cut -d ' ' -f 2; echo kept > /cache/file"
    )
    assert pod.run(script, binds=binds, storages=[memory]) == ["value", "64"]
    assert pod.run("cat /cache/file", binds=binds, storages=[memory]) == ["kept"]


def test_a_container_that_is_not_kept_from_the_guest_does_not_start(pod: Pod) -> None:
    """Root needs no capability to name the program that the kernel runs on a crash, where it may write."""
    place = "/proc/sys/kernel/core_pattern"
    script = f"(echo '|/bin/sh' > {place}) 2> /dev/null || echo refused; cat {place}"
    assert pod.run(script, capabilities=["CAP_KILL"]) == ["refused", "core"]
    with pytest.raises(SealpodError, match="CAP_SYS_ADMIN") as caught:
        pod.start("true", capabilities=["CAP_SYS_ADMIN"])
    assert caught.value.code == "container.privileged"


def test_device_nodes_a_container_makes_open_nothing_of_the_guest(pod: Pod) -> None:
    """Memory, the kernel's log, the port to the host, the loop device; null shows that it is tried."""
    script = (
        "port=$(grep virtio-portsdev /proc/devices | tr -dc 0-9); "
        'for node in "c 1 1" "c 1 11" "c $port 1" "b 7 0" "c 1 3"; do '
        "busybox mknod /dev/own $node && (: < /dev/own) 2> /dev/null && echo opened $node; "
        "busybox rm -f /dev/own; done"
    )
    assert pod.run(script) == ["opened c 1 3"]


def test_network_is_listed(pod: Pod) -> None:
    answer = pod.call(pod.agent.call("ListInterfaces", agent_pb2.ListInterfacesRequest()))
    found = {one.name: one for one in agent_pb2.Interfaces.FromString(answer).Interfaces}
    assert "10.0.2.15" in [one.address for one in found["eth0"].IPAddresses]
    routes = agent_pb2.Routes.FromString(
        pod.call(pod.agent.call("ListRoutes", agent_pb2.ListRoutesRequest()))
    )
    assert ("", "10.0.2.2") in [(one.dest, one.gateway) for one in routes.Routes]


def test_a_seed_is_taken(pod: Pod) -> None:
    pod.call(pod.agent.call("ReseedRandomDev", agent_pb2.ReseedRandomDevRequest(data=b"seed")))


@pytest.mark.parametrize(
    ("method", "request_", "text"),
    [
        ("PauseContainer", agent_pb2.PauseContainerRequest(), "PauseContainerRequest is blocked"),
        ("AddSwap", agent_pb2.AddSwapRequest(), "method AddSwap"),
        ("CreateSandbox", agent_pb2.CreateSandboxRequest(), "this guest has a pod already"),
    ],
)
def test_refusals(pod: Pod, method: str, request_: Any, text: str) -> None:
    with pytest.raises(SealpodError) as caught:
        pod.call(pod.agent.call(method, request_))
    assert text in caught.value.message
