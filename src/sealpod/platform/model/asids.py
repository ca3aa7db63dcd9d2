# SPDX-License-Identifier: Apache-2.0
"""The kernel's part of a launch: an address space id (ASID) for each guest of one machine.

Each model runs in a process of its own, but the ids are one machine's, as on hardware. An id is taken by
locking its byte of the file ``asids`` in the state directory; the kernel gives the lock back when the process
ends, however it ends. Guests with SEV-ES have ids below ``MIN_SEV_ASID``, others from there on (KVM,
CPUID 0x8000001F ECX and EDX).
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Final

from sealpod.errors import AccessError
from sealpod.platform.model.guests import MAX_ASID, MIN_SEV_ASID
from sealpod.sev.status import Status

FILE: Final = "asids"

# linux/fcntl.h: struct flock { short type, whence; off_t start, len; pid_t pid; }
_FLOCK: Final = struct.Struct("@hhqqi4x")
_WHOLE: Final = MAX_ASID + 1


class AsidTable:
    """The ids of the platform in ``state_dir``, which exists. Close it when the platform is closed."""

    def __init__(self, state_dir: str) -> None:
        """:raise AccessError: the file is not what this user may lock."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        path = os.path.join(state_dir, FILE)
        try:
            self._fd = os.open(path, flags, 0o600)
        except OSError as error:
            raise AccessError(
                f"cannot open {path}: {error.strerror}",
                code="platform.state-access",
                remedy="give the state directory to the user who runs sealpod",
            ) from error
        self._ours: set[int] = set()

    def take(self, *, es: bool) -> int:
        """The lowest free id for a guest with or without SEV-ES, else RESOURCE_LIMIT."""
        ids = range(1, MIN_SEV_ASID) if es else range(MIN_SEV_ASID, MAX_ASID + 1)
        for asid in ids:
            # Locks of one owner do not exclude each other.
            if asid not in self._ours and self._lock(fcntl.F_WRLCK, asid):
                self._ours.add(asid)
                return asid
        kind = "with" if es else "without"
        raise Status.RESOURCE_LIMIT.error(
            f"all {len(ids)} address space ids for guests {kind} SEV-ES are in use",
            remedy="end some guests",
        )

    def release(self, asid: int) -> None:
        """Give an id back. After :meth:`close` all are."""
        if asid in self._ours and self._fd >= 0:
            self._ours.remove(asid)
            self._lock(fcntl.F_UNLCK, asid)

    def others(self) -> int:
        """How many ids are taken by others than this table."""
        count, ranges = 0, [(0, _WHOLE)]
        while self._fd >= 0 and ranges:
            start, end = ranges.pop()
            if start >= end:
                continue
            probe = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, end - start, 0)
            kind, _, first, length, _ = _FLOCK.unpack(fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, probe))
            if kind == fcntl.F_UNLCK:
                continue
            # The kernel tells some lock in the range, not the first; neighbouring bytes of one owner are one.
            first, last = max(first, start), min(first + length, end) if length else end
            count += last - first
            ranges += [(start, first), (last, end)]
        return count

    def close(self) -> None:
        """Give everything back. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _lock(self, kind: int, asid: int) -> bool:
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, asid, 1, 0))
        except BlockingIOError:
            return False
        return True
