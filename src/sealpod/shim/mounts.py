# SPDX-License-Identifier: Apache-2.0
"""umount2(2), which the standard library does not have."""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import Final

MNT_DETACH: Final = 2
_MOST: Final = 16  # mounts on top of one another


def detach(target: str) -> None:
    """Take every mount off ``target``, now or when its last user is gone. Nothing there is no error."""
    libc = ctypes.CDLL(None, use_errno=True)
    with contextlib.suppress(OSError):
        for _ in range(_MOST):
            if not os.path.ismount(target) or libc.umount2(os.fsencode(target), MNT_DETACH) != 0:
                return
