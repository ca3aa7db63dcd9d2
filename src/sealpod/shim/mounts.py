# SPDX-License-Identifier: Apache-2.0
"""umount2(2), which the standard library does not have."""

from __future__ import annotations

import ctypes
import os
from typing import Final

MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8
_MOST: Final = 16  # mounts on top of one another


def detach(target: str) -> None:
    """Take every mount off ``target`` and below, now or when its last user is gone. None is no error."""
    libc = ctypes.CDLL(None, use_errno=True)
    for _ in range(_MOST):
        # Asked of the kernel, not of os.path.ismount, which does not see a bind mount of the same device.
        if libc.umount2(os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW) != 0:
            return
