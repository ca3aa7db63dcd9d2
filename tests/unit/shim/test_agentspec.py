# SPDX-License-Identifier: Apache-2.0
"""containerd's specification as the agent gets it, which image is meant, and numbers as containerd wants."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from sealpod.errors import UsageError
from sealpod.shim import agentspec, devices, imagename, metrics
from sealpod.shim.context import ShimContext
from sealpod.wire.agentapi import OOM_GROUP
from sealpod.wire.pb import agent_pb2
from sealpod.wire.taskapi import MESSAGES

CONTEXT = ShimContext("k8s.io", "pod", "/none", "/none/containerd.sock", "/none.ttrpc", "kata", "/none.s")
CONFIG: dict[str, Any] = {
    "ociVersion": "1.1.0",
    "hooks": {"prestart": [{"path": "/bin/false"}]},
    "process": {
        "terminal": True,
        "consoleSize": {"height": 24, "width": 80},
        "args": ["/bin/sh"],
        "env": ["A=1"],
        "cwd": "/work",
        "user": {"uid": 0, "gid": 0, "additionalGids": [10]},
        "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"]},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 512}],
        "noNewPrivileges": True,
        "oomScoreAdj": 900,
        "selinuxLabel": "x",
    },
    "root": {"path": "rootfs", "readonly": True},
    "linux": {
        "resources": {
            "devices": [{"allow": False, "access": "rwm"}],
            "memory": {"limit": 1 << 26},
            "cpu": {"shares": 2, "quota": 5000, "period": 10000, "cpus": "0-3"},
            "pids": {"limit": 7},
            "blockIO": {"weight": 10},
        },
        "namespaces": [{"type": "pid"}, {"type": "network", "path": "/proc/1/ns/net"}],
        "maskedPaths": ["/proc/acpi"],
        "readonlyPaths": ["/proc/sys"],
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [
                {
                    "names": ["personality"],
                    "action": "SCMP_ACT_ALLOW",
                    "errnoRet": 0,
                    "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}],
                }
            ],
        },
    },
}


def test_a_specification_for_the_guest() -> None:
    request = agentspec.create_request("one", CONFIG, "registry.example/a:1")
    spec = request.OCI
    assert [(one.driver, one.source, one.mount_point) for one in request.storages] == [
        ("image_guest_pull", "registry.example/a:1", "/run/kata-containers/one/rootfs")
    ]
    assert (request.string_user.uid, request.string_user.gid) == ("0", "0")
    assert list(request.string_user.additionalGids) == ["10"]
    assert (spec.Root.Path, spec.Root.Readonly) == ("/run/kata-containers/one/rootfs", True)
    assert list(spec.Process.Args) == ["/bin/sh"]
    assert (spec.Process.Cwd, spec.Process.NoNewPrivileges, spec.Process.OOMScoreAdj) == ("/work", True, 900)
    assert (spec.Process.ConsoleSize.Height, spec.Process.ConsoleSize.Width) == (24, 80)
    assert spec.Process.Rlimits[0].Soft == 512
    assert not spec.Process.SelinuxLabel
    resources = spec.Linux.Resources
    assert (resources.Memory.Limit, resources.Pids.Limit, resources.CPU.Quota) == (1 << 26, 7, 5000)
    assert not resources.CPU.Cpus
    assert not resources.Devices
    assert not spec.Linux.Namespaces
    rule = spec.Linux.Seccomp.Syscalls[0]
    assert (rule.HasField("errnoret"), rule.errnoret, rule.Args[0].Value) == (True, 0, 8)
    assert not request.sandbox_pidns


def test_who_is_killed_for_too_much_memory() -> None:
    for value, expected in (("1", "true"), ("0", "")):
        config = {"linux": {"resources": {"unified": {"memory.oom.group": value, "memory.high": "1"}}}}
        request = agentspec.create_request("one", config, "i")
        assert request.OCI.Annotations.get(OOM_GROUP, "") == expected


def test_a_shared_pid_namespace() -> None:
    config = {"linux": {"namespaces": [{"type": "pid", "path": "/proc/1/ns/pid"}]}}
    assert agentspec.create_request("one", config, "i").sandbox_pidns


def test_a_process_beside_the_first() -> None:
    request = agentspec.exec_request("one", "e", {"args": ["/x"], "user": {"uid": 5, "gid": 6}}, True)
    assert (request.container_id, request.exec_id, request.process.Terminal) == ("one", "e", True)
    assert (request.string_user.uid, request.string_user.gid) == ("5", "6")


@pytest.mark.parametrize(
    ("device", "rules", "refused"),
    [
        ("/dev/fuse", [{"allow": False, "access": "rwm"}], True),
        ("/dev/block", [{"allow": True, "type": "b", "major": 8, "minor": 0, "access": "rwm"}], True),
        ("/dev/null", [], False),
        # A privileged container's, of which it has all.
        ("/dev/sda", [{"allow": False, "access": "rwm"}, {"allow": True, "access": "rwm"}], False),
    ],
)
def test_devices_of_the_host_are_not_left_out_in_silence(
    device: str, rules: list[dict[str, Any]], refused: bool
) -> None:
    linux = {"devices": [{"path": device, "type": "c"}], "resources": {"devices": rules}}
    if not refused:
        devices.check(linux)
        return
    with pytest.raises(UsageError, match=device) as caught:
        devices.check(linux)
    assert caught.value.code == "shim.device"


def volume(document: object) -> Any:
    packed = base64.b64encode(json.dumps(document).encode()).decode()
    return MESSAGES.new("Mount", type="fuse.nydus-overlayfs", options=[f"io.katacontainers.volume={packed}"])


@pytest.mark.parametrize(
    ("annotations", "mounts", "expected"),
    [
        ({"io.kubernetes.cri.image-name": "a"}, [volume({"source": "b"})], "a"),
        ({"io.kubernetes.cri-o.ImageName": "a"}, [], "a"),
        ({}, [volume({"source": "b"})], "b"),
        ({}, [volume({"source": "dummy-image-reference"})], None),
        ({}, [volume([])], None),
        ({}, [MESSAGES.new("Mount", options=["io.katacontainers.volume=!"])], None),
        ({}, [], None),
    ],
)
def test_which_image(annotations: dict[str, str], mounts: list[Any], expected: str | None) -> None:
    found = imagename.find(annotations, mounts, CONTEXT, "one")
    if expected is not None:
        assert asyncio.run(found) == expected
        return
    with pytest.raises(UsageError) as caught:  # nobody listens where containerd should
        asyncio.run(found)
    assert caught.value.code == "shim.no-image"


def test_numbers_of_both_kinds_of_cgroups() -> None:
    stats = agent_pb2.StatsContainerResponse()
    group = stats.cgroup_stats
    group.cpu_stats.cpu_usage.total_usage = 5_000_000
    group.memory_stats.usage.usage = 300
    for key, value in (("inactive_file", 100), ("anon", 70), ("pgfault", 9), ("pgmajfault", 2)):
        group.memory_stats.stats.add(key=key, value=value)
    held = group.cpu_stats.throttling_data
    held.periods, held.throttled_periods, held.throttled_time = 8, 3, 6_000_000
    group.pids_stats.current = 4
    one, two = metrics.pack(stats, unified=False), metrics.pack(stats, unified=True)
    assert one.type_url == "io.containerd.cgroups.v1.Metrics"
    decoded = metrics.V1.decode("Metrics", one.value)
    assert decoded.cpu.usage.total == 5_000_000
    memory, held = decoded.memory, decoded.cpu.throttling
    assert (memory.usage.usage, memory.total_inactive_file, memory.total_rss) == (300, 100, 70)
    assert (memory.pg_fault, memory.pg_maj_fault) == (9, 2)
    assert (held.periods, held.throttled_periods, held.throttled_time) == (8, 3, 6_000_000)
    assert two.type_url == "io.containerd.cgroups.v2.Metrics"
    decoded = metrics.V2.decode("Metrics", two.value)
    assert (decoded.cpu.usage_usec, decoded.memory.usage, decoded.memory.inactive_file) == (5000, 300, 100)
    assert (decoded.memory.anon, decoded.memory.pgfault, decoded.memory.pgmajfault) == (70, 9, 2)
    assert (decoded.cpu.nr_periods, decoded.cpu.nr_throttled, decoded.cpu.throttled_usec) == (8, 3, 6000)
    assert decoded.pids.current == 4
