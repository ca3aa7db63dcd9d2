# SPDX-License-Identifier: Apache-2.0
"""Seed the kernel's random number generator with what the host sends (random(4)).

It is mixed in and credited nothing: the host is not trusted to be random, and can only add.
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Final

from sealpod.errors import OperationError, UsageError

DEVICE: Final = "/dev/random"
RNDADDENTROPY: Final = 0x40085203
RNDRESEEDCRNG: Final = 0x5207
MAX_SEED: Final = 4096
_POOL_INFO = struct.Struct("ii")  # struct rand_pool_info: bits credited, bytes


def reseed(data: bytes, device: str = DEVICE) -> None:
    """Mix ``data`` in and have the generator start anew from its pool."""
    if not 0 < len(data) <= MAX_SEED:
        text = f"a seed has 1 to {MAX_SEED} bytes, not {len(data)}"
        raise UsageError(text, code="sandbox.random")
    try:
        descriptor = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, RNDADDENTROPY, _POOL_INFO.pack(0, len(data)) + data)
            fcntl.ioctl(descriptor, RNDRESEEDCRNG)
        finally:
            os.close(descriptor)
    except OSError as exc:
        text = f"the random number generator takes no seed: {exc.strerror}"
        raise OperationError(text, code="sandbox.random") from exc
