# SPDX-License-Identifier: Apache-2.0
"""Pods' machines without containerd: real guests in real network namespaces, and nothing left of them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealpod.errors import SealpodError
from sealpod.qemu.machine import Machine
from sealpod.sandbox import podvm, state
from sealpod.sandbox.foretell import Node, foretell
from sealpod.sandbox.podvm import PodRequest, PodVm, start_pod
from sealpod.sandbox.runningpod import RunningPod
from sealpod.sandbox.spec import GuestFiles
from sealpod.sandbox.state import SandboxState, is_alive

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, ("ip", "tc", "nsenter"))),
        reason="needs root, iproute2 and util-linux",
    ),
]

HOST, POD = "10.231.9.1", "10.231.9.2"
CONFIG = """
[hypervisor.qemu]
default_memory = 512
kernel_params = "agent.enable_signature_verification=false"
"""
MEASURED = CONFIG + "confidential_guest = true\nsev_guest_policy = 3\n"


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("model") / "platform")


@pytest.fixture(autouse=True)
def place(
    guest_files: GuestFiles, platform: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    monkeypatch.setenv(state.ENVIRONMENT, str(tmp_path))
    monkeypatch.setenv(podvm.PLATFORM_STATE, platform)
    before = set(children())
    yield tmp_path
    assert set(children()) <= before
    assert state.sandbox_ids() == []


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"sp{secrets.token_hex(3)}"
    ip("netns", "add", name)
    try:
        ip("link", "add", f"v{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("address", "add", f"{HOST}/24", "dev", f"v{name}")
        ip("link", "set", f"v{name}", "up")
        ip("-n", name, "address", "add", f"{POD}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "route", "add", "default", "via", HOST)
        yield f"/run/netns/{name}"
        links = {link["ifname"] for link in json.loads(ip("-n", name, "-json", "link"))}
        assert not any(link.startswith("tap") for link in links)
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False)


def children() -> list[int]:
    return [
        int(pid)
        for task in os.listdir("/proc/self/task")
        for pid in Path(f"/proc/self/task/{task}/children").read_text().split()
    ]


def request(place: Path, config: str, netns: str = "", runtime: str = "kata-qemu") -> PodRequest:
    path = place / "configuration.toml"
    path.write_text(config)
    return PodRequest(
        id=f"pod{secrets.token_hex(4)}",
        namespace="k8s.io",
        runtime=runtime,
        config_path=str(path),
        annotations={},
        netns=netns,
        hostname="web-0",
        dns=("nameserver 10.96.0.10", "search example"),
        socket="",
        bundle=str(place),
    )


def answers(address: str) -> bool:
    """A kernel with this address says that nobody listens."""
    with socket.socket() as probe:
        probe.settimeout(20)
        return probe.connect_ex((address, 9)) == errno.ECONNREFUSED


@contextlib.asynccontextmanager
async def booted(asked: PodRequest):  # type: ignore[no-untyped-def]
    vm = await start_pod(asked)
    try:
        yield vm
    finally:
        await vm.stop()


def test_a_plain_pod_answers_at_its_address(
    place: Path, netns: str, caplog: pytest.LogCaptureFixture
) -> None:
    odd = CONFIG + "default_memroy = 9\n"

    async def scenario() -> None:
        vm: PodVm
        async with booted(request(place, odd, netns)) as vm:
            assert vm.describe()["platform"] == "none"
            assert vm.settings.image_reference("localhost:5000/a:b") == "localhost:5000/a:b"
            assert await asyncio.to_thread(answers, POD)
            assert os.path.samestat(os.stat(f"/proc/{vm.pid}/ns/net"), os.stat(netns))
            (name,) = os.listdir(place / "sandboxes")
            record = json.loads((place / "sandboxes" / name / "sandbox.json").read_text())
            assert record["processes"]["qemu"]["pid"] == vm.pid
            assert record["interfaces"] == [{"name": "eth0", "tap": "tap0_kata"}]
        await vm.stop()
        assert (await vm.wait()).code == "sandbox.stopped"
        # The guest has switched itself off; nobody had to kill its machine.
        assert isinstance(vm, RunningPod)
        assert vm._machine.exit_code == 0

    asyncio.run(scenario())
    # What the runtime does not know is said in its log.
    assert "unknown key 'default_memroy' (did you mean default_memory?)" in caplog.text


def test_a_measured_pod_without_a_broker(place: Path, netns: str) -> None:
    async def scenario() -> None:
        vm: PodVm
        async with booted(request(place, MEASURED, netns, "kata-qemu-sev")) as vm:
            described = vm.describe()
            assert described["platform"] == "model"
            assert len(str(described["launchDigest"])) == 64
            measured = described["measured"]
            assert isinstance(measured, dict)
            assert measured["digest"] == described["launchDigest"]
            # What an owner foretells from the configuration is what was launched.
            (foretold,) = foretell(Node(MEASURED), {}).components
            assert foretold.record() == measured
            assert await asyncio.to_thread(answers, POD)
            os.kill(vm.pid, signal.SIGKILL)
            error = await vm.wait()
            assert error.code == "guest.ended"
            assert "status -9" in error.message

    asyncio.run(scenario())


def test_user_network_reaches_the_hosts_loopback_by_its_other_name(place: Path) -> None:
    async def scenario() -> None:
        vm: PodVm
        async with booted(request(place, CONFIG)) as vm:
            assert vm.settings.image_reference("localhost:5000/a:b") == "10.0.2.2:5000/a:b"
            assert vm.settings.image_reference("registry.example/a:b") == "registry.example/a:b"

    asyncio.run(scenario())


def test_a_start_cancelled_while_the_guest_boots_leaves_nothing(
    place: Path, netns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        booting = asyncio.Event()
        resume = Machine.resume

        async def told(machine: Machine) -> None:
            await resume(machine)
            booting.set()

        monkeypatch.setattr(Machine, "resume", told)
        task = asyncio.create_task(start_pod(request(place, MEASURED, netns, "kata-qemu-sev")))
        reached = asyncio.create_task(booting.wait())
        await asyncio.wait({task, reached}, return_when=asyncio.FIRST_COMPLETED)
        assert not task.done(), task.exception()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())


def test_a_broker_that_is_not_there_is_named_with_the_phase(place: Path, netns: str) -> None:
    config = MEASURED + (
        "guest_pre_attestation = true\n"
        'guest_pre_attestation_kbs_mode = "online"\nguest_pre_attestation_kbs_uri = "127.0.0.1:9"\n'
    )

    async def scenario() -> None:
        with pytest.raises(SealpodError) as caught:
            await start_pod(request(place, config, netns, "kata-qemu-sev"))
        assert caught.value.code == "kbs.unreachable"
        assert caught.value.message.startswith("getting a session from the key broker failed: ")
        assert "127.0.0.1:9" in caught.value.message
        assert "Connection refused" in caught.value.message

    asyncio.run(scenario())


def test_a_kernel_that_is_not_one_is_told_in_qemus_words(place: Path) -> None:
    (place / "kernel").write_bytes(b"x" * 4096)
    (place / "initrd").write_bytes(b"x")
    config = CONFIG + f'kernel = "{place}/kernel"\ninitrd = "{place}/initrd"\n'

    async def scenario() -> None:
        with pytest.raises(SealpodError) as caught:
            await start_pod(request(place, config))
        assert caught.value.message.startswith("starting the guest failed: QEMU did not start")
        assert "linux kernel too old" in caught.value.message or "kernel" in caught.value.message

    asyncio.run(scenario())


def test_a_guest_whose_agent_never_comes(place: Path) -> None:
    """It boots, and its first program is another one."""
    words = 'false rdinit=/bin/busybox -- sleep 100000"'
    config = CONFIG.replace('false"', words) + "[agent.kata]\ndial_timeout = 12\n"

    async def scenario() -> None:
        with pytest.raises(SealpodError) as caught:
            await start_pod(request(place, config))
        assert caught.value.code == "launch.deadline"
        assert caught.value.exit_status == 124
        told = caught.value.one_line()
        assert told.startswith("booting the guest failed: the guest's agent did not answer within 12 s, its ")
        assert "; see the guest's whole console in debug mode" in told

    asyncio.run(scenario())


def test_a_killed_shim_takes_its_machine_along_and_the_rest_is_cleaned_up(place: Path, netns: str) -> None:
    asked = request(place, MEASURED, netns, "kata-qemu-sev")
    program = textwrap.dedent(f"""
        import asyncio
        from sealpod.sandbox.podvm import PodRequest, start_pod
        async def main():
            vm = await start_pod({asked!r})
            print("booted", flush=True)
            await vm.wait()
        asyncio.run(main())
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as shim:
        assert shim.stdout is not None
        assert shim.stdout.readline() == "booted\n"
        processes = SandboxState(asked.id).read()["processes"]
        assert set(processes) == {"shim", "platform", "qemu"}
        watched = [os.pidfd_open(entry["pid"]) for entry in processes.values()]
        shim.kill()
    for descriptor in watched:
        assert select.select([descriptor], [], [], 20)[0]
        os.close(descriptor)
    assert not any(map(is_alive, processes.values()))
    assert "tap0_kata" in ip("-n", os.path.basename(netns), "link")
    podvm.clean_up(asked.id)


def test_shims_of_several_pods_use_one_platform_at_once(
    place: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """From its very first use, when one of them makes the keys."""
    fresh = str(tmp_path_factory.mktemp("fresh") / "platform")
    environment = {**os.environ, podvm.PLATFORM_STATE: fresh}
    program = textwrap.dedent("""
        import asyncio, sys
        from sealpod.platform.model import open_model
        async def main():
            platform = await open_model(sys.argv[1])
            print((await platform.identifier()).hex(), flush=True)
            sys.stdin.read()
            await platform.close()
        asyncio.run(main())
    """)
    shims = [
        subprocess.Popen(
            [sys.executable, "-c", program, fresh],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(3)
    ]
    identifiers = {shim.stdout.readline() for shim in shims if shim.stdout is not None}
    for shim in shims:
        shim.communicate()
        assert shim.returncode == 0
    assert len(identifiers) == 1
    assert len(identifiers.pop().strip()) == 128
