# SPDX-License-Identifier: Apache-2.0
"""A process of a container, a child of ours: signals to it, its streams, its exit status."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable

from sealpod.agent.reaper import Reaper
from sealpod.agent.streams import Streams
from sealpod.errors import DeadlineError


class Process:
    """Runs until :meth:`wait` returns."""

    def __init__(self, name: str, pid: int, stdio: Streams) -> None:
        self.stdio = stdio
        self.pid = pid
        self.waited = False
        """Somebody was told its status."""
        self._name = name
        # Signals go through the descriptor: the number alone may belong to someone else after the end.
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._pidfd = -1  # it has ended already
        self._changed = threading.Condition()
        self._status: int | None = None

    def watch(self, reaper: Reaper, ended: Callable[[], None] = lambda: None) -> None:
        """Wait for the end in a thread of its own, then call ``ended``, then let others know."""
        threading.Thread(target=self._watch, args=(reaper, ended), daemon=True).start()

    def _watch(self, reaper: Reaper, ended: Callable[[], None]) -> None:
        status = reaper.wait(self.pid)
        try:
            ended()
        finally:
            with self._changed:
                self._status = status
                if self._pidfd >= 0:
                    os.close(self._pidfd)
                    self._pidfd = -1
                self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> int:
        """Exit status, or 128 + signal number. Raises :class:`DeadlineError` after ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._status is not None, timeout)
            if self._status is None:
                raise DeadlineError(f"{self._name} has not ended in {timeout} s", code="container.wait")
            return self._status

    def kill(self, number: int) -> None:
        """Send a signal; to an ended process it is no error."""
        with self._changed, contextlib.suppress(ProcessLookupError):
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, number)

    def drops(self, number: int) -> bool:
        """Whether the kernel drops the signal: the first process of a pid namespace that neither catches nor
        ignores it is not touched by it (pid_namespaces(7)). Masks are hexadecimal, as in proc(5)."""
        masks, first = 0, False
        try:
            with open(f"/proc/{self.pid}/status", encoding="ascii", errors="replace") as file:
                for line in file:
                    if line.startswith(("SigCgt:", "SigIgn:")):
                        masks |= int(line.split()[1], 16)
                    elif line.startswith("NSpid:"):
                        first = line.split()[-1] == "1"
        except OSError:
            return False  # it has ended
        return first and not masks >> (number - 1) & 1
