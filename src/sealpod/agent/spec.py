# SPDX-License-Identifier: Apache-2.0
"""The OCI runtime configuration of one container: secure defaults, plus what the request may change.

The request comes from the untrusted host. It decides how far a container is kept from the rest of the guest,
as it does in any pod, and nothing else: what the guest runs, reads and answers was measured. What would
reach for the guest's own parts is refused rather than left out in silence: mounts from other places than the
volumes', namespaces by path, the host's devices, sysctls that are not a pod's own.

A request that names capabilities describes its process whole, as containerd does; then its privileges, masked
and read-only paths count as they stand. One that does not gets Docker's defaults. In a guest that holds keys
what is masked or read-only by default stays so, and :mod:`sealpod.agent.privileges` has a word to say.

Containers have their own pid (unless the pod shares one), mount and cgroup namespaces, share the sandbox's
ipc and uts namespaces and the VM's network. Device rules are ours: the standard devices and no others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from sealpod.agent import limits, mounts, privileges
from sealpod.errors import UsageError
from sealpod.wire.agentapi import OOM_GROUP
from sealpod.wire.message import Message

OCI_VERSION: Final = "1.0.2"
CGROUP_PARENT: Final = "/sealpod"
NEW_PRIVILEGES: Final = "io.sealpod.allow-new-privileges"
"""Annotation that lets set-uid programs gain privileges, ``"true"``, where the request does not say."""

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
_KNOWN = """CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE
SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE
AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF
CHECKPOINT_RESTORE"""
KNOWN_CAPABILITIES: Final = frozenset(f"CAP_{name}" for name in _KNOWN.split())
"""linux/capability.h. A host with a newer kernel may name more; the guest has none of those to give."""
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
DEVICES: Final = frozenset(
    f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty", "console", "ptmx")
)
"""Every container has these; naming them changes nothing."""


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
    volumes: Mapping[str, str] = {}
    """Where the sources of the request's bind mounts have been mounted."""
    namespaces: Mapping[str, str] = {}
    """Paths of the namespaces to join, by type."""
    shm: str = ""
    """The pod's shared memory, if it has one of its own."""
    privileged: bool = True
    """Whether a container may be given what reaches into the guest."""


def compose(request: Message, process: Process, bundle: Bundle) -> dict[str, Any]:
    """``config.json`` for ``request`` (a ``grpc.Spec``). Raises :class:`UsageError` (``container.spec``)."""
    refuse(request, privileged=bundle.privileged)
    as_asked = describes_all(request.Process) and bundle.privileged
    linux = request.Linux
    document: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "process": compose_process(request.Process, process, request.Annotations),
        "root": {"path": bundle.rootfs, "readonly": request.Root.Readonly},
        "mounts": mounts.compose(
            request, bundle.volumes, bundle.files, bundle.shm, writable=bundle.privileged
        ),
        "linux": {
            "namespaces": [_namespace(name, bundle.namespaces) for name in NAMESPACES],
            "cgroupsPath": f"{CGROUP_PARENT}/{bundle.container_id}",
            "resources": {
                "devices": [{"allow": False, "access": "rwm"}],
                **limits.resources(linux.Resources),
                **_unified(request.Annotations),
            },
            "maskedPaths": _paths(() if as_asked else MASKED, linux.MaskedPaths),
            "readonlyPaths": _paths(() if as_asked else READ_ONLY, linux.ReadonlyPaths),
        },
    }
    if "uts" not in bundle.namespaces:
        document["hostname"] = request.Hostname or bundle.hostname  # a shared one has its name already
    if linux.has("Seccomp") and linux.Seccomp.DefaultAction:
        document["linux"]["seccomp"] = limits.seccomp(linux.Seccomp)
    return document


def describes_all(process: Message) -> bool:
    """Whether a ``grpc.Process`` says all about privileges, or leaves them to our defaults."""
    return process.has("Capabilities")


def refuse(request: Message, *, privileged: bool = True) -> None:
    """Say no to what this agent does not do; leaving it out silently would run something else."""
    if not privileged:
        privileges.check(request.Process)
    linux = request.Linux
    reasons = [
        (any(namespace.Path for namespace in linux.Namespaces), "namespaces by path"),
        (any(namespace.Type == "user" for namespace in linux.Namespaces), "user namespaces"),
        (linux.UIDMappings or linux.GIDMappings, "user namespaces"),
        *(
            (device.Path not in DEVICES, f"the device {device.Path[:100]!r} of the host")
            for device in linux.Devices
        ),
    ]
    for present, what in reasons:
        if present:
            raise UsageError(
                f"this guest's containers cannot have {what}",
                code="container.spec",
                remedy="leave it out of the container's specification",
            )


def compose_process(asked: Message, process: Process, annotations: Mapping[str, str] = {}) -> dict[str, Any]:
    """The ``process`` of config.json; also what a further process of a container is given."""
    allowed = annotations.get(NEW_PRIVILEGES) == "true"
    document: dict[str, Any] = {
        "terminal": asked.Terminal,
        "user": {
            "uid": process.uid,
            "gid": process.gid,
            "additionalGids": list(process.additional_gids),
        },
        "args": list(process.args),
        "env": list(process.env),
        "cwd": process.cwd,
        "capabilities": _capabilities(asked, process.uid),
        "noNewPrivileges": asked.NoNewPrivileges or not (describes_all(asked) or allowed),
        "rlimits": limits.rlimits(asked),
    }
    if asked.OOMScoreAdj:
        document["oomScoreAdj"] = asked.OOMScoreAdj
    if asked.Terminal and asked.ConsoleSize.Height and asked.ConsoleSize.Width:
        size = asked.ConsoleSize
        document["consoleSize"] = {"height": size.Height, "width": size.Width}
    return document


def _capabilities(asked: Message, uid: int) -> dict[str, list[str]]:
    """What was asked for, as far as Linux knows it; else Docker's, in force at the start for root only."""
    if describes_all(asked):
        names = ("Bounding", "Effective", "Inheritable", "Permitted", "Ambient")
        return {name.lower(): _known(getattr(asked.Capabilities, name)) for name in names}
    bounding = list(CAPABILITIES)
    effective = bounding if uid == 0 else []
    return {"bounding": bounding, "effective": effective, "permitted": effective}


def _unified(annotations: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Files of the container's control group, written as they are."""
    return {"unified": {"memory.oom.group": "1"}} if annotations.get(OOM_GROUP) == "true" else {}


def _known(names: Sequence[str]) -> list[str]:
    return [name for name in names if name in KNOWN_CAPABILITIES]


def _namespace(name: str, shared: Mapping[str, str]) -> dict[str, str]:
    return {"type": name, "path": shared[name]} if name in shared else {"type": name}


def _paths(defaults: Sequence[str], asked: Sequence[str]) -> list[str]:
    return list(dict.fromkeys((*defaults, *asked)))
