# SPDX-License-Identifier: Apache-2.0
"""A confidential guest's memory is locked: KVM pins all of it, and counts it against QEMU's RLIMIT_MEMLOCK.

QEMU inherits the limit from this process, whose soft limit is raised as far as the hard one allows.
"""

from __future__ import annotations

import resource
from typing import Final

from sealpod.errors import AccessError

OVERHEAD: Final = 64 << 20
"""Bytes KVM pins besides the guest's RAM: flash, video and option ROMs, with room to spare."""
_STATUS: Final = "/proc/self/status"
_CAP_IPC_LOCK: Final = 14  # linux/capability.h


def allow_locked(size: int, *, status: str = _STATUS) -> None:
    """Make sure that a child may have ``size`` bytes of guest memory locked.

    :raise AccessError: the hard limit is lower, and this process is not exempt (CAP_IPC_LOCK).
    """
    if _is_exempt(status):
        return
    needed = size + OVERHEAD
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if _admits(soft, needed):
        return
    if not _admits(hard, needed):
        raise AccessError(
            f"this user may lock {hard >> 20} MiB of memory, the guest needs {needed >> 20}",
            code="qemu.memlock",
            remedy="raise the limit (`ulimit -l`, LimitMEMLOCK= of the service), or run as root",
        )
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))


def _admits(limit: int, needed: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= needed


def _is_exempt(status: str) -> bool:
    with open(status, encoding="ascii", errors="replace") as source:
        for line in source:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_IPC_LOCK & 1)
    return False
