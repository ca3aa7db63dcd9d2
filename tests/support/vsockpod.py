# SPDX-License-Identifier: Apache-2.0
"""What runs inside a kernel with ``/dev/vhost-vsock``: a pod's machine, as the shim starts one.

A script for :mod:`kernelhost`. Nothing is replaced: QEMU gets the kernel's device with a reserved number, the
guest's agent listens on vsock, and the host dials it there.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from typing import Any

from sealpod.errors import SealpodError
from sealpod.sandbox import state
from sealpod.sandbox.agent import AgentClient
from sealpod.sandbox.podport import PodRequest
from sealpod.sandbox.podvm import start_pod
from sealpod.wire.pb import agent_pb2

CONFIG = """
[hypervisor.qemu]
kernel = "/guest/vmlinuz"
initrd = "/guest/initrd.img"
default_memory = 512
kernel_params = "agent.enable_signature_verification=false"
enable_debug = true
[agent.kata]
dial_timeout = 3000
"""
MUCH = 1 << 20
STATE = "/tmp/state"


def request() -> PodRequest:
    with open("/tmp/configuration.toml", "w", encoding="utf-8") as out:
        out.write(CONFIG)
    return PodRequest(
        id="pod",
        namespace="k8s.io",
        runtime="kata-qemu",
        config_path="/tmp/configuration.toml",
        annotations={},
        netns="",
        hostname="web-0",
        dns=(),
        socket="",
        bundle="/tmp",
    )


def devices(pid: int) -> dict[str, Any]:
    """What QEMU was given, and where its descriptors lead."""
    with open(f"/proc/{pid}/cmdline", encoding="utf-8") as source:
        words = source.read().split("\0")
    links = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
    return {
        "device": next(word.partition(",")[0] for word in words if "vsock" in word),
        "serial": any("virtserialport" in word for word in words),
        "opened": links.count("/dev/vhost-vsock"),
        "ours": sum(os.readlink(f"/proc/self/fd/{one}") == "/dev/vhost-vsock" for one in open_links()),
    }


def open_links() -> list[str]:
    return [name for name in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{name}")]


async def echo(agent: AgentClient) -> bool:
    """Much data in both directions: the agent names the method it does not have."""
    name = "".join(f"{number:08x}" for number in range(MUCH // 8))
    try:
        await agent.call(name, agent_pb2.GuestDetailsRequest(), seconds=600)
    except SealpodError as error:
        return name in error.message
    return False


async def talk() -> dict[str, Any]:
    start = time.monotonic()
    vm = await start_pod(request())
    booted = time.monotonic() - start
    try:
        found = devices(vm.pid)
        answer = agent_pb2.GuestDetailsResponse()
        asked = agent_pb2.GuestDetailsRequest(mem_block_size=False, mem_hotplug_probe=False)
        answer.ParseFromString(await vm.agent.call("GetGuestDetails", asked, seconds=600))
        await vm.agent.check(seconds=600)
        echoed = await echo(vm.agent)
        phases = vm.describe()["phases"]
        console = list(vm.console(200))
    finally:
        await vm.stop(seconds=300)
    ended = await vm.wait()
    return {
        **found,
        "echoed": echoed,
        "agent": answer.agent_details.version,
        "ready": any("agent ready" in line for line in console),
        "ended": ended.code,
        "left": os.listdir(os.path.join(STATE, "sandboxes")) if os.path.isdir(STATE) else [],
        "booted": round(booted),
        "phases": phases,
    }


async def main() -> None:
    os.environ[state.ENVIRONMENT] = STATE
    try:
        found = await talk()
    except SealpodError as error:
        found = {"error": error.one_line(), "console": list(getattr(error, "console", ()))}
    print("RESULT " + json.dumps(found), flush=True)


logging.basicConfig(level=logging.INFO)
asyncio.run(main())
