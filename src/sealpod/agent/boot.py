# SPDX-License-Identifier: Apache-2.0
"""PID 1's part: mounts, cgroups, limits, loopback before the first call; powering off at the end.

/init of the initramfs has put the root together and mounted /proc, /sys and /dev; what is there already is
left as it is, so that the agent also starts as the very first program.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final, NoReturn

from sealpod.agent import network, syscalls
from sealpod.agent.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID
from sealpod.errors import OperationError

RUN_SIZE: Final = "80%"
"""Of guest memory, for /run: it holds unpacked images and what containers write. The kernel's default is
half, which makes an image need twice its size."""
CONTROLLERS: Final = ("cpu", "memory", "pids", "hugetlb")
CGROUPS: Final = "/sys/fs/cgroup"
MOUNTS: Final = (
    ("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
    ("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
    ("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, ""),
    ("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666"),
    ("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"),  # noqa: S108 (that is its place)
    ("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, f"mode=0755,size={RUN_SIZE}"),
    ("cgroup2", CGROUPS, "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
)
"""Source, target, type, flags, options."""
LIMITS: Final = ((syscalls.RLIMIT_NOFILE, 1 << 20), (syscalls.RLIMIT_NPROC, syscalls.UNLIMITED))
"""What containers begin with, as from Kata's agent and from containerd under systemd. The kernel's own is
1024 open files, 4096 at most, too few for many a server. Processes are counted by control groups."""
OPTIONAL_MOUNTS: Final = (("securityfs", "/sys/kernel/security", "securityfs", 0, ""),)
"""Without securityfs the launch secret is read from memory."""


def prepare() -> None:
    """Mounts, cgroup controllers, limits, loopback. Raises :class:`OperationError` (``agent.boot``)."""
    os.umask(0o022)
    for source, target, kind, flags, options in MOUNTS:
        _mount(source, target, kind, flags, options)
    for source, target, kind, flags, options in OPTIONAL_MOUNTS:
        with contextlib.suppress(OperationError):
            _mount(source, target, kind, flags, options)
    _delegate_controllers()
    _raise_limits()
    network.bring_up_loopback()


def _mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    try:
        os.makedirs(target, exist_ok=True)
        if not os.path.ismount(target):
            syscalls.mount(source, target, kind, flags, options)
    except OSError as exc:
        raise OperationError(f"cannot mount {target}: {exc.strerror}", code="agent.boot") from exc


def _delegate_controllers() -> None:
    """Let containers' cgroups have limits. A kernel may lack a controller; then nobody can ask for it."""
    for name in CONTROLLERS:
        with contextlib.suppress(OSError), open(f"{CGROUPS}/cgroup.subtree_control", "w") as file:
            file.write(f"+{name}")


def _raise_limits() -> None:
    """A guest whose kernel allows less has what it allows."""
    for kind, most in LIMITS:
        with contextlib.suppress(OSError):
            syscalls.set_limit(kind, most)


def command_line() -> str:
    """The kernel's."""
    with open("/proc/cmdline", encoding="utf-8", errors="replace") as file:
        return file.read()


def power_off() -> NoReturn:
    """End the machine. Returning from PID 1 would be a kernel panic instead."""
    os.sync()
    for command in (syscalls.POWER_OFF, syscalls.RESTART):
        with contextlib.suppress(OSError):
            syscalls.reboot(command)
    os._exit(1)
