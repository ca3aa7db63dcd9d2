# SPDX-License-Identifier: Apache-2.0
"""A line for each command the firmware was given, in the file ``audit`` of the state directory.

JSON, one object per line: when, which process, command, guest handle (null without one), status. No argument
of a command is in it, so no key and no secret either. Lines of several processes interleave whole. When the
file passes its limit it becomes ``audit.1``, in place of the one before: at most twice the limit is kept.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

FILE: Final = "audit"
LIMIT: Final = 1 << 20
"""Bytes after which a file is set aside: about ten thousand commands."""

Clock = Callable[[], float]


class AuditLog:
    """The audit of one process on the platform in ``state_dir``; ``clock`` gives seconds since the epoch."""

    def __init__(self, state_dir: str, clock: Clock, *, limit: int = LIMIT) -> None:
        self._path = os.path.join(state_dir, FILE)
        self._clock = clock
        self._limit = limit
        self._fd = -1

    def record(self, command: str, handle: int | None, status: str) -> None:
        """Append one line. :raise OSError: the disk does not take it."""
        self._open()
        when = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        line = {"time": when, "pid": os.getpid(), "command": command, "handle": handle, "status": status}
        # One write with O_APPEND: lines of other processes come before or after, never in between.
        os.write(self._fd, json.dumps(line).encode() + b"\n")
        if os.fstat(self._fd).st_size >= self._limit:
            self._set_aside()

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        if self._fd >= 0 and self._is_current():
            return
        self.close()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self._path, flags, 0o600)

    def _is_current(self) -> bool:
        """Whether nobody has set the open file aside meanwhile."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def _set_aside(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            if self._is_current():
                os.rename(self._path, self._path + ".1")
        finally:
            self.close()
