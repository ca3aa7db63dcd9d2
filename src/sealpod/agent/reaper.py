# SPDX-License-Identifier: Apache-2.0
"""Child processes: one thread waits for all of them, so that nobody's zombie stays.

A container's first process is not our child at first; it becomes ours when ``crun create`` ends. So statuses
are collected whether anyone has asked yet or not. Statuses are exit codes, or 128 + signal number.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from typing import Final

from sealpod.errors import DeadlineError, OperationError

SIGNALLED: Final = 128
MAX_UNCLAIMED: Final = 256
"""Statuses kept of processes nobody asked for; the oldest go first."""
STANDARD: Final = (0, 1, 2)
IGNORED: Final = (signal.SIGPIPE, signal.SIGXFSZ)
"""Signals Python ignores; a program started from here gets their default action back."""


class Reaper:
    """Starts and collects children of this process. There can be only one per process."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._started = 0
        self._ended: dict[int, int] = {}
        self._claimed: set[int] = set()

    def start(self) -> None:
        """Begin collecting."""
        threading.Thread(target=self._run, name="reaper", daemon=True).start()

    def spawn(self, arguments: Sequence[str], standard: tuple[int, int, int], env: Mapping[str, str]) -> int:
        """Start a program with the given descriptors as its standard ones; no others are inherited."""
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for fd, number in zip(standard, STANDARD, strict=True)]
        with self._changed:
            try:
                pid = os.posix_spawn(
                    arguments[0], list(arguments), env, file_actions=actions, setsigmask=(), setsigdef=IGNORED
                )
            except OSError as exc:
                text = f"cannot run {arguments[0]}: {exc.strerror}"
                raise OperationError(text, code="agent.spawn") from exc
            # A status already filed under this number is of an earlier process that had it.
            self._ended.pop(pid, None)
            self._started += 1
            self._claimed.add(pid)
            self._changed.notify_all()
            return pid

    def claim(self, pid: int) -> None:
        """Somebody will ask for the status of ``pid``: keep it until then."""
        with self._changed:
            self._claimed.add(pid)

    def forget_unclaimed(self) -> None:
        """Drop statuses nobody asked for, before a container whose process number is not known yet."""
        with self._changed:
            for pid in self._ended.keys() - self._claimed:
                del self._ended[pid]

    def wait(self, pid: int, timeout: float | None = None) -> int:
        """The status of ``pid``, once. Raises :class:`DeadlineError` after ``timeout`` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: pid in self._ended, timeout):
                raise DeadlineError(f"process {pid} did not end in {timeout} s", code="agent.wait")
            self._claimed.discard(pid)
            return self._ended.pop(pid)

    def kill(self, pid: int) -> None:
        """End a child nobody will ask for."""
        with self._changed:
            self._claimed.discard(pid)
            if self._ended.pop(pid, None) is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _run(self) -> None:
        while True:
            before = self._started
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                # New children come from spawn only, or from a child we still have.
                with self._changed:
                    while self._started == before:
                        self._changed.wait()
                continue
            code = os.waitstatus_to_exitcode(status)
            with self._changed:
                self._ended[pid] = code if code >= 0 else SIGNALLED - code
                unclaimed = [known for known in self._ended if known not in self._claimed]
                if len(unclaimed) > MAX_UNCLAIMED:
                    del self._ended[unclaimed[0]]
                self._changed.notify_all()
