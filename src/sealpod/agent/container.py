# SPDX-License-Identifier: Apache-2.0
"""One container from creation to removal.

==========  =======================================  ========================
state       meaning                                  leaves it by
==========  =======================================  ========================
CREATED     its first process waits inside           ``start``
RUNNING     the image's program runs                 the program's end
STOPPED     it has ended; its status is known        ``remove``
==========  =======================================  ========================

A container that ends before it was started (killed) goes to STOPPED directly.
"""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import threading

from sealpod.agent import rootfs
from sealpod.agent.reaper import Reaper
from sealpod.agent.runtime import Runtime
from sealpod.agent.stdio import Stdio
from sealpod.errors import ConflictError, DeadlineError, SealpodError


class State(enum.Enum):
    """See the module's table."""

    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"


class Container:
    """A created container. ``pid`` is its first process here, a child of ours."""

    def __init__(
        self, container_id: str, directory: str, rootfs_path: str, stdio: Stdio, pid: int, runtime: Runtime
    ) -> None:
        self.id = container_id
        self.stdio = stdio
        self._directory = directory
        self._rootfs = rootfs_path
        self._pid = pid
        # Signals go through the descriptor: the number alone may belong to someone else after the end.
        self._pidfd = os.pidfd_open(pid)
        self._runtime = runtime
        self._changed = threading.Condition()
        self._state = State.CREATED
        self._status = 0
        self._removing = threading.Lock()
        self._removed = False

    def watch(self, reaper: Reaper) -> None:
        """Wait for the end in a thread of its own."""
        threading.Thread(target=self._watch, args=(reaper,), daemon=True).start()

    def _watch(self, reaper: Reaper) -> None:
        status = reaper.wait(self._pid)
        with self._changed:
            self._status = status
            self._state = State.STOPPED
            self._changed.notify_all()

    @property
    def state(self) -> State:
        """Where it is in its life."""
        return self._state

    def start(self) -> None:
        """Run the image's program. Raises :class:`ConflictError` (``container.state``) unless CREATED."""
        with self._changed:
            if self._state is not State.CREATED:
                text = f"container {self.id} is {self._state.value}; only a created one can be started"
                raise ConflictError(text, code="container.state")
            self._state = State.RUNNING
        self._runtime.start(self.id, self._directory)

    def wait(self, timeout: float | None = None) -> int:
        """Exit status, or 128 + signal number. Raises :class:`DeadlineError` after ``timeout`` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._state is State.STOPPED, timeout):
                raise DeadlineError(
                    f"container {self.id} has not ended in {timeout} s", code="container.wait"
                )
            return self._status

    def kill(self, number: int) -> None:
        """Send a signal to the first process; to an ended container it is no error.

        The kernel drops SIGTERM for the first process of a pid namespace that has no handler for it, so such
        a process could never be asked to end; it gets SIGKILL, as Kata's agent does it.
        """
        if number == signal.SIGTERM and not _handles(self._pid, number):
            number = signal.SIGKILL
        with self._changed, contextlib.suppress(ProcessLookupError):
            # The descriptor is closed only after the end.
            if self._state is not State.STOPPED:
                signal.pidfd_send_signal(self._pidfd, number)

    def kill_all(self, number: int) -> None:
        """Send a signal to every process."""
        if self._state is not State.STOPPED:
            self._runtime.kill_all(self.id, self._directory, number)

    def remove(self, timeout: float | None) -> None:
        """Kill what still runs, wait for it at most ``timeout`` seconds, and clear everything away.

        Of two who ask at once, one does it and the other returns when it is done.
        """
        self.kill(signal.SIGKILL)
        self.wait(timeout)
        with self._removing:
            if not self._removed:
                self._removed = True
                self._clear()

    def _clear(self) -> None:
        with contextlib.suppress(SealpodError):
            # crun has forgotten a container that died early; what matters is removed below.
            self._runtime.delete(self.id, self._directory)
        self.stdio.close()
        os.close(self._pidfd)
        rootfs.remove(self._directory, self._rootfs)


def _handles(pid: int, number: int) -> bool:
    """Whether the process catches the signal (``SigCgt`` of proc(5), a bit mask in hexadecimal)."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("SigCgt:"):
                    return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    except OSError:
        pass
    return False
