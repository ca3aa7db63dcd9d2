# SPDX-License-Identifier: Apache-2.0
"""config.json from a request: what it may change and what it may not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from sealpod.agent import limits, privileges, spec
from sealpod.agent.spec import Bundle, Process, compose
from sealpod.errors import RefusedError, UsageError
from sealpod.wire.agentapi import MESSAGES, OOM_GROUP
from sealpod.wire.pb import oci_pb2

SETS = ("bounding", "effective", "permitted")
PROCESS = Process(("/bin/true",), ("A=b",), "/", 0, 0, (7,))
BUNDLE = Bundle("c1", "/run/c1/rootfs", "pod", (("/run/resolv", "/etc/resolv.conf"),))


def composed(
    change: Callable[[Any], object] = lambda _: None, process: Process = PROCESS, bundle: Bundle = BUNDLE
) -> dict[str, Any]:
    request = oci_pb2.Spec()
    change(request)
    document = compose(MESSAGES.decode("Spec", request.SerializeToString()), process, bundle)
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
    assert "unified" not in resources


def test_too_much_memory_may_be_everybodys_end() -> None:
    def change(request: Any) -> None:
        request.Annotations[OOM_GROUP] = "true"

    assert composed(change)["linux"]["resources"]["unified"] == {"memory.oom.group": "1"}


def test_capabilities_are_those_asked_for_as_far_as_they_are_known() -> None:
    def change(request: Any) -> None:
        request.Process.Capabilities.Bounding.extend(["CAP_KILL", "CAP_SYS_ADMIN", "CAP_OF_TOMORROW"])
        request.Process.Capabilities.Effective.extend(["CAP_SYS_ADMIN"])

    capabilities = composed(change)["process"]["capabilities"]
    assert capabilities == {
        "bounding": ["CAP_KILL", "CAP_SYS_ADMIN"],
        "effective": ["CAP_SYS_ADMIN"],
        "inheritable": [],
        "permitted": [],
        "ambient": [],
    }


def test_docker_gives_no_capability_that_linux_lacks() -> None:
    assert set(spec.CAPABILITIES) < spec.KNOWN_CAPABILITIES
    assert len(spec.KNOWN_CAPABILITIES) == 41  # CAP_LAST_CAP of linux/capability.h is 40


def test_another_user_starts_without_capabilities() -> None:
    capabilities = composed(process=Process(("x",), (), "/", 5, 5))["process"]["capabilities"]
    assert (capabilities["effective"], capabilities["permitted"]) == ([], [])
    assert capabilities["bounding"] == list(spec.CAPABILITIES)


def test_new_privileges_by_annotation_or_by_who_describes_the_process_whole() -> None:
    assert composed(lambda r: setattr(r.Process, "NoNewPrivileges", False))["process"]["noNewPrivileges"]
    allowed = composed(lambda r: r.Annotations.update({spec.NEW_PRIVILEGES: "true"}))
    assert not allowed["process"]["noNewPrivileges"]
    assert not composed(lambda r: r.Process.Capabilities.SetInParent())["process"]["noNewPrivileges"]

    def strict(request: Any) -> None:
        request.Process.Capabilities.SetInParent()
        request.Process.NoNewPrivileges = True
        request.Annotations[spec.NEW_PRIVILEGES] = "true"

    assert composed(strict)["process"]["noNewPrivileges"]


def test_whoever_describes_the_process_whole_says_which_paths_are_masked() -> None:
    linux = composed(lambda r: r.Process.Capabilities.SetInParent())["linux"]
    assert (linux["maskedPaths"], linux["readonlyPaths"]) == ([], [])
    assert linux["resources"]["devices"] == [{"allow": False, "access": "rwm"}]


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


def test_volumes_are_shown_from_where_they_were_mounted() -> None:
    def change(request: Any) -> None:
        options = ["rbind", "ro", "rshared", "size=1", "rw=x"]
        request.Mounts.add(destination="/data", source="/vol/a", type="bind", options=options)
        request.Mounts.add(destination="/etc/resolv.conf", source="/vol/r", options=["bind"])

    mounts = composed(change, bundle=BUNDLE._replace(volumes={"/vol/a": "/s/0", "/vol/r": "/s/1"}))["mounts"]
    shown = {mount["destination"]: mount for mount in mounts}
    assert shown["/data"] == {
        "destination": "/data",
        "type": "bind",
        "source": "/s/0",
        "options": ["bind", "rbind", "ro", "nodev"],
    }
    assert [m["source"] for m in mounts if m["destination"] == "/etc/resolv.conf"] == ["/s/1"]


def test_shared_memory_of_the_pod_and_a_volume_in_its_place() -> None:
    def sources(change: Callable[[Any], object], volumes: dict[str, str]) -> list[str]:
        bundle = BUNDLE._replace(shm="/run/sandbox/shm", volumes=volumes)
        return [
            m["source"] for m in composed(change, bundle=bundle)["mounts"] if m["destination"] == "/dev/shm"
        ]

    assert sources(lambda r: None, {}) == ["/run/sandbox/shm"]
    assert sources(
        lambda r: r.Mounts.add(destination="/dev/shm", source="/run/sandbox/shm", type="bind"), {}
    ) == ["/run/sandbox/shm"]
    assert sources(
        lambda r: r.Mounts.add(destination="/dev/shm", source="/v", type="bind"), {"/v": "/s/0"}
    ) == ["/s/0"]


def test_a_privileged_containers_sys_is_written_to() -> None:
    def change(request: Any) -> None:
        request.Mounts.add(destination="/sys", source="sysfs", type="sysfs", options=["rw"])

    shown = {mount["destination"]: mount["options"] for mount in composed(change)["mounts"]}
    assert "ro" not in shown["/sys"]
    assert "ro" in shown["/sys/fs/cgroup"]


GUARDED = BUNDLE._replace(privileged=False)


@pytest.mark.parametrize("part", ["Bounding", "Effective", "Inheritable", "Permitted", "Ambient"])
def test_no_capability_that_reaches_into_a_guest_with_keys(part: str) -> None:
    for name in sorted(privileges.ESCAPES):
        with pytest.raises(RefusedError, match=name) as caught:
            composed(
                lambda r, name=name: getattr(r.Process.Capabilities, part).extend(["CAP_KILL", name]),
                bundle=GUARDED,
            )
        assert caught.value.code == "container.privileged"
    assert privileges.ESCAPES <= spec.KNOWN_CAPABILITIES
    assert not privileges.ESCAPES & set(spec.CAPABILITIES)


def test_what_is_masked_stays_masked_in_a_guest_with_keys() -> None:
    """Else root of a container, without any capability, has the kernel start a program of its own choice."""

    def change(request: Any) -> None:
        request.Process.Capabilities.Bounding.append("CAP_KILL")
        request.Linux.ReadonlyPaths.append("/opt")
        for place in ("/sys", "/sys/fs/cgroup"):
            request.Mounts.add(destination=place, source="x", type="sysfs", options=["rw"])

    document = composed(change, bundle=GUARDED)
    assert set(document["linux"]["maskedPaths"]) >= set(spec.MASKED)
    assert set(document["linux"]["readonlyPaths"]) == {*spec.READ_ONLY, "/opt"}
    shown = {mount["destination"]: mount["options"] for mount in document["mounts"]}
    assert "ro" in shown["/sys"]
    assert "ro" in shown["/sys/fs/cgroup"]


def test_shared_namespaces_are_joined_and_their_name_is_left_alone() -> None:
    shared = {"ipc": "/ns/ipc", "uts": "/ns/uts", "pid": "/ns/pid"}
    document = composed(lambda r: setattr(r, "Hostname", "other"), bundle=BUNDLE._replace(namespaces=shared))
    paths = {one["type"]: one.get("path") for one in document["linux"]["namespaces"]}
    assert paths == {**shared, "mount": None, "cgroup": None}
    assert "hostname" not in document


def test_a_terminal_and_its_size() -> None:
    def change(request: Any) -> None:
        request.Process.Terminal = True
        request.Process.ConsoleSize.Height = 24
        request.Process.ConsoleSize.Width = 80

    process = composed(change)["process"]
    assert (process["terminal"], process["consoleSize"]) == (True, {"height": 24, "width": 80})


@pytest.mark.parametrize(
    ("given", "composed_as"),
    [
        ({"Limit": 100, "Swap": 100}, {"limit": 100, "swap": 100}),
        ({"Limit": 100, "Swap": 50}, {"limit": 100, "swap": 100}),
        ({"Limit": 100, "Swap": -1}, {"limit": 100, "swap": -1}),
        ({"Swap": 50}, {}),
        ({"Limit": -1, "Swap": 50}, {"limit": -1}),
    ],
)
def test_swap_is_never_below_the_limit(given: dict[str, int], composed_as: dict[str, int]) -> None:
    message = MESSAGES.new("LinuxMemory", **given)
    assert limits.memory(message) == composed_as


def test_huge_pages() -> None:
    linux = composed(lambda r: r.Linux.Resources.HugepageLimits.add(Pagesize="2MB", Limit=(1 << 64) - 1))[
        "linux"
    ]
    assert linux["resources"]["hugepageLimits"] == [{"pageSize": "2MB", "limit": (1 << 63) - 1}]


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
        lambda r: r.Linux.Namespaces.add(Type="mount", Path="/proc/1/ns/mnt"),
        lambda r: r.Linux.Devices.add(Path="/dev/mem", Type="c", Major=1, Minor=1),
        lambda r: r.Linux.Namespaces.add(Type="user"),
        lambda r: r.Linux.UIDMappings.add(Size=1),
        lambda r: r.Mounts.add(destination="/mnt", source="/", type="ext4"),
        lambda r: r.Mounts.add(destination="/mnt", source="/dev/vda"),
    ],
)
def test_what_would_reach_into_the_guest_is_refused(change: Callable[[Any], object]) -> None:
    with pytest.raises(UsageError) as caught:
        composed(change)
    assert caught.value.code == "container.spec"
