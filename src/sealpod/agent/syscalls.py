# SPDX-License-Identifier: Apache-2.0
"""System calls the standard library of Python 3.11 does not have: mount, umount, reboot, prctl.

``ctypes`` is imported at the first call, since importing it is a noticeable part of the agent's start.
All raise :class:`OSError` with the call's errno.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import ctypes

# mount(2) flags, linux/mount.h
MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REMOUNT: Final = 0x20
MS_BIND: Final = 0x1000
MNT_DETACH: Final = 2

# reboot(2) commands, linux/reboot.h
POWER_OFF: Final = 0x4321FEDC
RESTART: Final = 0x01234567

PR_SET_CHILD_SUBREAPER: Final = 36

_libc: ctypes.CDLL | None = None


def _call(name: str, *arguments: object) -> None:
    global _libc
    import ctypes

    if _libc is None:
        _libc = ctypes.CDLL(None, use_errno=True)
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    """mount(2). ``data`` holds the file system's own options; the kernel takes 4095 bytes."""
    import ctypes

    _call("mount", source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())


def unmount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _call("umount2", os.fsencode(target), flags)


def reboot(command: int) -> None:
    """reboot(2). Does not return when it works."""
    import ctypes

    _call("reboot", ctypes.c_int(command if command < 1 << 31 else command - (1 << 32)))


def become_subreaper() -> None:
    """Orphaned descendants of this process become its children, as they do for PID 1."""
    _call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
