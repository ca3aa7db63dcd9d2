# SPDX-License-Identifier: Apache-2.0
"""Guest memory in a file descriptor that came with a command: the guest's RAM, or a copy of its flash.

Reads and writes go through the descriptor rather than a mapping, so that a file cut short by the other side
gives an error and not a SIGBUS. A memfd is one and the same memory either way.
"""

from __future__ import annotations

import os


class FileMemory:
    """``fd``, not owned, as guest physical memory whose first byte is at ``base``."""

    def __init__(self, fd: int, *, base: int, limit: int) -> None:
        """``limit``: bytes of the file that are at their guest physical address; what follows is not seen."""
        self._fd = fd
        self._base = base
        self._size = min(os.fstat(fd).st_size, limit)

    @property
    def base(self) -> int:
        """Guest physical address of the first byte."""
        return self._base

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._size

    def read(self, gpa: int, size: int) -> bytes:
        """Exactly ``size`` bytes at ``gpa``."""
        data = bytearray()
        while len(data) < size:
            piece = os.pread(self._fd, size - len(data), gpa - self._base + len(data))
            if not piece:
                raise OSError(0, "guest memory ends early")
            data += piece
        return bytes(data)

    def write(self, gpa: int, data: bytes) -> None:
        """All of ``data`` at ``gpa``."""
        done = 0
        while done < len(data):
            done += os.pwrite(self._fd, data[done:], gpa - self._base + done)
