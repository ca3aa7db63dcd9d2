# SPDX-License-Identifier: Apache-2.0
"""A container's mounts: the kernel's file systems as they must be, the request's volumes, the pod's files.

A volume is a bind mount whose source is one that :mod:`sealpod.agent.sources` lets the host name. It is
opened once and mounted in a place of the container's own, which nobody else can change, before the OCI
runtime gets to see it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sealpod.agent import syscalls
from sealpod.errors import OperationError, UsageError
from sealpod.wire.agentapi import TERMINATION_LOG
from sealpod.wire.message import Message

SHM: Final = "/dev/shm"  # noqa: S108 (inside the container)
SYS: Final = "/sys"
CGROUP: Final = "/sys/fs/cgroup"
_SAFE = ("nosuid", "noexec", "nodev")
OURS: Final[tuple[tuple[str, str, tuple[str, ...]], ...]] = (
    ("/proc", "proc", _SAFE),
    ("/dev", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    ("/dev/pts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")),
    (SHM, "tmpfs", (*_SAFE, "mode=1777", "size=65536k")),
    ("/dev/mqueue", "mqueue", _SAFE),
    (SYS, "sysfs", (*_SAFE, "ro")),
    (CGROUP, "cgroup", (*_SAFE, "relatime", "ro")),
)
"""Destination, type, options."""
_OWN_DESTINATIONS = frozenset(mount[0] for mount in OURS)

_BIND_OPTIONS = """bind rbind ro rw nosuid suid nodev noexec exec noatime nodiratime relatime strictatime
private rprivate slave rslave unbindable runbindable"""
BIND_OPTIONS: Final = frozenset(_BIND_OPTIONS.split())
"""Kept of a volume's options. Propagation out of the container is not among them."""
MAX_MOUNTS: Final = 256
STAGE: Final = "volumes"
"""Directory in a container's own where its volumes are mounted first."""


def is_bind(mount: Message) -> bool:
    """Whether the request means a bind mount; containerd says so by type, others by an option."""
    return mount.type == "bind" or (not mount.type and bool({"bind", "rbind"} & set(mount.options)))


def volumes(request: Message, shm: str) -> list[Message]:
    """Bind mounts of a ``grpc.Spec``, without the pod's shared memory at its usual place, which is ours."""
    found = [mount for mount in request.Mounts if is_bind(mount)]
    if len(request.Mounts) > MAX_MOUNTS:
        raise UsageError(f"a container has at most {MAX_MOUNTS} mounts", code="container.spec")
    return [mount for mount in found if not (mount.destination == SHM and mount.source == shm)]


def stage(asked: Sequence[Message], directory: str, opened: Callable[[str], int]) -> dict[str, str]:
    """Mount the volumes' sources below ``directory``; where each is, by its source.

    ``opened`` gives a source's descriptor.

    What was mounted when an error comes is for :func:`sealpod.agent.rootfs.remove` to undo.
    """
    staged: dict[str, str] = {}
    for mount in asked:
        if mount.source not in staged:
            place = os.path.join(directory, STAGE, str(len(staged)))
            _stage(mount.source, place, opened)
            staged[mount.source] = place
    return staged


def _stage(source: str, place: str, opened: Callable[[str], int]) -> None:
    descriptor = opened(source)
    try:
        mode = os.fstat(descriptor).st_mode
        os.makedirs(place if stat.S_ISDIR(mode) else os.path.dirname(place), mode=0o700, exist_ok=True)
        if stat.S_ISREG(mode):
            os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        elif not stat.S_ISDIR(mode):
            raise UsageError(f"the volume {source!r} is neither file nor directory", code="container.spec")
        syscalls.bind(descriptor, place)
    except OSError as exc:
        text = f"cannot mount the volume {source!r}: {exc.strerror}"
        raise OperationError(text, code="container.volume") from exc
    finally:
        os.close(descriptor)


def termination_log(request: Message, staged: Mapping[str, str]) -> str:
    """Where the file is that the container leaves its last words in, if the request names one of its mounts.

    What is mounted there cannot be replaced by the container, only written to.
    """
    place = request.Annotations.get(TERMINATION_LOG, "")
    sources = [mount.source for mount in request.Mounts if is_bind(mount) and mount.destination == place]
    return staged.get(sources[-1], "") if place and sources else ""


def compose(
    request: Message,
    staged: Mapping[str, str],
    files: Sequence[tuple[str, str]],
    shm: str = "",
    *,
    writable: bool = True,
) -> list[dict[str, Any]]:
    """The mounts of ``config.json``. ``files`` are shown unless the request has something at their place.

    ``writable``: the kernel's own file systems are, where the request says so.
    """
    taken = {mount.destination for mount in request.Mounts}
    mounts = [_ours(request, *mount, shm, writable) for mount in OURS]
    for mount in request.Mounts:
        if is_bind(mount):
            if mount.source in staged:
                mounts = [one for one in mounts if one["destination"] != mount.destination]
                mounts.append(_volume(mount, staged[mount.source]))
        elif mount.destination in _OWN_DESTINATIONS:
            continue
        elif mount.type == "tmpfs":
            mounts.append(_mount("tmpfs", mount.destination, "tmpfs", mount.options))
        else:
            raise UsageError(
                f"this guest's containers cannot have a mount of type {mount.type!r} on {mount.destination}",
                code="container.spec",
                remedy="leave it out of the container's specification",
            )
    return mounts + [file_mount(here, there) for here, there in files if there not in taken]


def file_mount(here: str, there: str) -> dict[str, Any]:
    """A file of the guest's, shown read-only."""
    return _mount(here, there, "bind", ("bind", "ro", "nosuid", "nodev"))


def memory(destination: str) -> dict[str, Any]:
    """A little tmpfs."""
    return _mount("tmpfs", destination, "tmpfs", ("nosuid", "noexec", "mode=755", "size=64k"))


def _ours(
    request: Message, destination: str, kind: str, options: Sequence[str], shm: str, writable: bool
) -> dict[str, Any]:
    if destination == SHM and shm:
        return _mount(shm, SHM, "bind", ("bind", *_SAFE))
    if (
        writable
        and destination in (SYS, CGROUP)
        and any(mount.destination == destination and "rw" in mount.options for mount in request.Mounts)
    ):
        options = [option for option in options if option != "ro"]  # as a privileged container has it
    return _mount(kind, destination, kind, options)


def _volume(asked: Message, source: str) -> dict[str, Any]:
    kept = [option for option in asked.options if option in BIND_OPTIONS and option != "bind"]
    return _mount(source, asked.destination, "bind", ("bind", *dict.fromkeys((*kept, "nodev"))))


def _mount(source: str, destination: str, kind: str, options: Sequence[str]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}
