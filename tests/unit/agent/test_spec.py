# SPDX-License-Identifier: Apache-2.0
"""config.json from a request: what it may change and what it may not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from sealpod.agent import spec
from sealpod.agent.spec import Bundle, Process, compose
from sealpod.errors import UsageError
from sealpod.wire.agentapi import MESSAGES
from sealpod.wire.pb import oci_pb2

SETS = ("bounding", "effective", "permitted")
PROCESS = Process(("/bin/true",), ("A=b",), "/", 0, 0, (7,))
BUNDLE = Bundle("c1", "/run/c1/rootfs", "pod", (("/run/resolv", "/etc/resolv.conf"),))


def composed(change: Callable[[Any], object] = lambda _: None, process: Process = PROCESS) -> dict[str, Any]:
    request = oci_pb2.Spec()
    change(request)
    document = compose(MESSAGES.decode("Spec", request.SerializeToString()), process, BUNDLE)
    assert json.loads(json.dumps(document)) == document  # only JSON types in it
    return document


def test_an_empty_request_gives_the_defaults() -> None:
    document = composed()
    assert document["process"] == {
        "terminal": False,
        "user": {"uid": 0, "gid": 0, "additionalGids": [7]},
        "args": ["/bin/true"],
        "env": ["A=b"],
        "cwd": "/",
        "capabilities": {name: list(spec.CAPABILITIES) for name in SETS},
        "noNewPrivileges": True,
        "rlimits": [],
    }
    assert document["root"] == {"path": "/run/c1/rootfs", "readonly": False}
    assert document["hostname"] == "pod"
    linux = document["linux"]
    assert linux["namespaces"] == [{"type": name} for name in ("pid", "mount", "ipc", "uts", "cgroup")]
    assert linux["cgroupsPath"] == "/sealpod/c1"
    assert linux["resources"] == {"devices": [{"allow": False, "access": "rwm"}]}
    assert "/proc/kcore" in linux["maskedPaths"]
    assert "/proc/sys" in linux["readonlyPaths"]
    assert "seccomp" not in linux
    resolv = document["mounts"][-1]
    assert (resolv["destination"], resolv["type"]) == ("/etc/resolv.conf", "bind")
    assert "ro" in resolv["options"]


def test_limits_that_were_given() -> None:
    def change(request: Any) -> None:
        resources = request.Linux.Resources
        resources.Memory.Limit = 1 << 28
        resources.CPU.Quota = 50000
        resources.CPU.Period = 100000
        resources.Pids.Limit = 100

    resources = composed(change)["linux"]["resources"]
    assert resources["memory"] == {"limit": 1 << 28}
    assert resources["cpu"] == {"quota": 50000, "period": 100000}
    assert resources["pids"] == {"limit": 100}


def test_capabilities_can_only_be_taken_away() -> None:
    def change(request: Any) -> None:
        request.Process.Capabilities.Bounding.extend(["CAP_KILL", "CAP_SYS_ADMIN"])
        request.Process.Capabilities.Effective.extend(["CAP_SYS_ADMIN"])

    capabilities = composed(change)["process"]["capabilities"]
    assert capabilities == {name: ["CAP_KILL"] for name in SETS}


def test_another_user_starts_without_capabilities() -> None:
    capabilities = composed(process=Process(("x",), (), "/", 5, 5))["process"]["capabilities"]
    assert (capabilities["effective"], capabilities["permitted"]) == ([], [])
    assert capabilities["bounding"] == list(spec.CAPABILITIES)


def test_new_privileges_by_annotation_alone() -> None:
    assert composed(lambda r: setattr(r.Process, "NoNewPrivileges", False))["process"]["noNewPrivileges"]
    allowed = composed(lambda r: r.Annotations.update({spec.NEW_PRIVILEGES: "true"}))
    assert not allowed["process"]["noNewPrivileges"]


def test_paths_are_added_to_the_masked_ones() -> None:
    linux = composed(lambda r: r.Linux.MaskedPaths.extend(["/secret", "/proc/kcore"]))["linux"]
    assert linux["maskedPaths"].count("/proc/kcore") == 1
    assert linux["maskedPaths"][-1] == "/secret"


def test_a_tmpfs_is_mounted_and_our_mounts_stay_ours() -> None:
    def change(request: Any) -> None:
        request.Mounts.add(destination="/cache", source="tmpfs", type="tmpfs", options=["size=1m"])
        request.Mounts.add(destination="/proc", source="proc", type="proc", options=["rw"])

    mounts = composed(change)["mounts"]
    assert [m["options"] for m in mounts if m["destination"] == "/cache"] == [["size=1m"]]
    assert [m["options"] for m in mounts if m["destination"] == "/proc"] == [["nosuid", "noexec", "nodev"]]


def test_limits_of_the_process() -> None:
    def change(request: Any) -> None:
        request.Process.Rlimits.add(Type="RLIMIT_NOFILE", Hard=2, Soft=1)
        request.Process.OOMScoreAdj = -5

    process = composed(change)["process"]
    assert process["rlimits"] == [{"type": "RLIMIT_NOFILE", "hard": 2, "soft": 1}]
    assert process["oomScoreAdj"] == -5


def test_seccomp_is_passed_on() -> None:
    def change(request: Any) -> None:
        seccomp = request.Linux.Seccomp
        seccomp.DefaultAction = "SCMP_ACT_ERRNO"
        seccomp.Architectures.append("SCMP_ARCH_X86_64")
        seccomp.Flags.append("SECCOMP_FILTER_FLAG_LOG")
        rule = seccomp.Syscalls.add(Names=["read"], Action="SCMP_ACT_ALLOW")
        rule.errnoret = 0
        rule.Args.add(Index=1, Value=2, ValueTwo=3, Op="SCMP_CMP_EQ")

    assert composed(change)["linux"]["seccomp"] == {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [
            {
                "names": ["read"],
                "action": "SCMP_ACT_ALLOW",
                "errnoRet": 0,
                "args": [{"index": 1, "value": 2, "valueTwo": 3, "op": "SCMP_CMP_EQ"}],
            }
        ],
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda r: setattr(r.Process, "Terminal", True),
        lambda r: r.Linux.Namespaces.add(Type="mount", Path="/proc/1/ns/mnt"),
        lambda r: r.Linux.Devices.add(Path="/dev/mem", Type="c", Major=1, Minor=1),
        lambda r: r.Linux.Sysctl.update({"kernel.core_pattern": "|/x"}),
        lambda r: r.Linux.UIDMappings.add(Size=1),
        lambda r: r.Linux.Resources.Devices.add(Allow=True, Access="rwm"),
        lambda r: r.Mounts.add(destination="/mnt", source="/", type="bind"),
        lambda r: r.Mounts.add(destination="/mnt", source="/dev/vda"),
    ],
)
def test_what_would_reach_into_the_guest_is_refused(change: Callable[[Any], object]) -> None:
    with pytest.raises(UsageError) as caught:
        composed(change)
    assert caught.value.code == "container.spec"
