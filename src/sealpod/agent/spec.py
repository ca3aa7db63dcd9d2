# SPDX-License-Identifier: Apache-2.0
"""The OCI runtime configuration of one container: secure defaults, plus what the request may change.

The request comes from the untrusted host, so it can narrow or parametrise, but what would reach from the
container into the guest is refused rather than passed on: mounts other than tmpfs, namespaces by path,
devices, sysctls, a terminal. Defaults are Docker's: its capabilities, masked and read-only paths.
Containers have their own pid, mount, ipc, uts and cgroup namespaces and share the VM's network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sealpod.errors import UsageError
from sealpod.wire.message import Message

OCI_VERSION: Final = "1.0.2"
CGROUP_PARENT: Final = "/sealpod"
NEW_PRIVILEGES: Final = "io.sealpod.allow-new-privileges"
"""Annotation that lets set-uid programs gain privileges, ``"true"``; without it they do not."""

CAPABILITIES: Final = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    )
)
MASKED: Final = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/kernel/security",
    "/sys/devices/virtual/powercap",
)
READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
NAMESPACES: Final = ("pid", "mount", "ipc", "uts", "cgroup")

_SAFE = ("nosuid", "noexec", "nodev")
MOUNTS: Final[tuple[tuple[str, str, tuple[str, ...]], ...]] = (
    ("/proc", "proc", _SAFE),
    ("/dev", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    ("/dev/pts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")),
    ("/dev/shm", "tmpfs", (*_SAFE, "mode=1777", "size=65536k")),  # noqa: S108 (inside the container)
    ("/dev/mqueue", "mqueue", _SAFE),
    ("/sys", "sysfs", (*_SAFE, "ro")),
    ("/sys/fs/cgroup", "cgroup", (*_SAFE, "relatime", "ro")),
)
_OWN_DESTINATIONS = frozenset(mount[0] for mount in MOUNTS)


class Process(NamedTuple):
    """What to run, as whom: the request and the image's configuration already merged."""

    args: Sequence[str]
    env: Sequence[str]
    cwd: str
    uid: int
    gid: int
    additional_gids: Sequence[int] = ()


class Bundle(NamedTuple):
    """Where a container lives in the guest."""

    container_id: str
    rootfs: str
    hostname: str
    files: Sequence[tuple[str, str]] = ()
    """Files of ours to show in the container, read-only: path here, path there."""


def compose(request: Message, process: Process, bundle: Bundle) -> dict[str, Any]:
    """``config.json`` for ``request`` (a ``grpc.Spec``). Raises :class:`UsageError` (``container.spec``)."""
    _refuse(request)
    document: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "process": _process(request, process),
        "root": {"path": bundle.rootfs, "readonly": request.Root.Readonly},
        "hostname": request.Hostname or bundle.hostname,
        "mounts": [*_mounts(request), *_files(bundle.files)],
        "linux": {
            "namespaces": [{"type": name} for name in NAMESPACES],
            "cgroupsPath": f"{CGROUP_PARENT}/{bundle.container_id}",
            "resources": _resources(request.Linux.Resources),
            "maskedPaths": _union(MASKED, request.Linux.MaskedPaths),
            "readonlyPaths": _union(READ_ONLY, request.Linux.ReadonlyPaths),
        },
    }
    if request.Linux.has("Seccomp"):
        document["linux"]["seccomp"] = _seccomp(request.Linux.Seccomp)
    return document


def _refuse(request: Message) -> None:
    """Say no to what this agent does not do; leaving it out silently would run something else."""
    linux = request.Linux
    reasons = (
        (request.Process.Terminal, "a terminal"),
        (any(namespace.Path for namespace in linux.Namespaces), "namespaces by path"),
        (linux.Devices, "devices"),
        (linux.Sysctl, "sysctls"),
        (linux.UIDMappings or linux.GIDMappings, "user namespaces"),
        (linux.has("Resources") and linux.Resources.Devices, "device rules"),
    )
    for present, what in reasons:
        if present:
            raise _unsupported(what)


def _process(request: Message, process: Process) -> dict[str, Any]:
    asked = request.Process
    capabilities = _capabilities(asked, process.uid)
    document: dict[str, Any] = {
        "terminal": False,
        "user": {
            "uid": process.uid,
            "gid": process.gid,
            "additionalGids": list(process.additional_gids),
        },
        "args": list(process.args),
        "env": list(process.env),
        "cwd": process.cwd,
        "capabilities": capabilities,
        "noNewPrivileges": request.Annotations.get(NEW_PRIVILEGES) != "true",
        "rlimits": [{"type": limit.Type, "hard": limit.Hard, "soft": limit.Soft} for limit in asked.Rlimits],
    }
    if asked.OOMScoreAdj:
        document["oomScoreAdj"] = asked.OOMScoreAdj
    return document


def _capabilities(asked: Message, uid: int) -> dict[str, list[str]]:
    """Docker's sets; only root starts with them in force. A request can only take away."""
    bounding = list(CAPABILITIES)
    if asked.has("Capabilities"):
        bounding = [name for name in bounding if name in asked.Capabilities.Bounding]
    effective = bounding if uid == 0 else []
    return {"bounding": bounding, "effective": effective, "permitted": effective}


def _mounts(request: Message) -> list[dict[str, Any]]:
    mounts = [_mount(kind, destination, kind, options) for destination, kind, options in MOUNTS]
    for asked in request.Mounts:
        if asked.destination in _OWN_DESTINATIONS:
            continue  # ours is stricter
        if asked.type != "tmpfs":
            raise _unsupported(f"a mount of type {asked.type or 'bind'} on {asked.destination}")
        mounts.append(_mount("tmpfs", asked.destination, "tmpfs", asked.options))
    return mounts


def _files(files: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    return [_mount(here, there, "bind", ("bind", "ro", "nosuid", "nodev")) for here, there in files]


def _mount(source: str, destination: str, kind: str, options: Sequence[str]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def _resources(asked: Message) -> dict[str, Any]:
    """Limits that were given; zero means none, as everywhere in this API."""
    sections = {
        "memory": (
            (asked.Memory, "limit", "Limit"),
            (asked.Memory, "reservation", "Reservation"),
            (asked.Memory, "swap", "Swap"),
        ),
        "cpu": (
            (asked.CPU, "shares", "Shares"),
            (asked.CPU, "quota", "Quota"),
            (asked.CPU, "period", "Period"),
            (asked.CPU, "cpus", "Cpus"),
        ),
        "pids": ((asked.Pids, "limit", "Limit"),),
    }
    resources: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}]}
    for section, members in sections.items():
        given = {name: getattr(part, field) for part, name, field in members if getattr(part, field)}
        if given:
            resources[section] = given
    return resources


def _seccomp(asked: Message) -> dict[str, Any]:
    document: dict[str, Any] = {"defaultAction": asked.DefaultAction, "syscalls": []}
    if asked.Architectures:
        document["architectures"] = list(asked.Architectures)
    if asked.Flags:
        document["flags"] = list(asked.Flags)
    for rule in asked.Syscalls:
        entry: dict[str, Any] = {"names": list(rule.Names), "action": rule.Action}
        if rule.has("errnoret"):
            entry["errnoRet"] = rule.errnoret
        entry["args"] = [
            {"index": arg.Index, "value": arg.Value, "valueTwo": arg.ValueTwo, "op": arg.Op}
            for arg in rule.Args
        ]
        document["syscalls"].append(entry)
    return document


def _union(defaults: Sequence[str], asked: Sequence[str]) -> list[str]:
    return list(dict.fromkeys((*defaults, *asked)))


def _unsupported(what: str) -> UsageError:
    return UsageError(
        f"this guest's containers cannot have {what}",
        code="container.spec",
        remedy="leave it out of the container's specification",
    )
