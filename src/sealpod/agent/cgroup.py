# SPDX-License-Identifier: Apache-2.0
"""A container's control group (version 2): freezing, and signals to everything in it.

The kernel's files do in a moment what crun, a program of its own, takes an emulated guest a second for.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Collection
from typing import Final

from sealpod.agent.spec import CGROUP_PARENT
from sealpod.errors import OperationError

CGROUPS: Final = "/sys/fs/cgroup"
FREEZE_SECONDS: Final = 10.0
"""A process deep in the kernel (a slow file system) freezes only when it comes out."""


class Cgroup:
    """The group of one container. It need not exist: then there is nothing in it."""

    def __init__(self, container_id: str, root: str = CGROUPS) -> None:
        self._path = f"{root}{CGROUP_PARENT}/{container_id}"

    def freeze(self, seconds: float = FREEZE_SECONDS) -> None:
        """Stop every process in it. Raises :class:`OperationError` (``container.pause``), and thaws then."""
        try:
            self._write("cgroup.freeze", "1")
            with open(f"{self._path}/cgroup.events", "rb", buffering=0) as events:
                poll = select.poll()
                poll.register(events, select.POLLPRI)
                end = time.monotonic() + seconds
                while b"frozen 1" not in os.pread(events.fileno(), 4096, 0):
                    if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
                        raise TimeoutError(0, f"not frozen in {seconds:g} s")
        except OSError as exc:
            with contextlib.suppress(OSError):
                self._write("cgroup.freeze", "0")
            text = f"cannot pause the container: {exc.strerror}"
            raise OperationError(text, code="container.pause") from exc

    def thaw(self) -> None:
        """Let its processes go on. Raises :class:`OperationError` (``container.pause``)."""
        try:
            self._write("cgroup.freeze", "0")
        except OSError as exc:
            text = f"cannot resume the container: {exc.strerror}"
            raise OperationError(text, code="container.pause") from exc

    def kill(self) -> None:
        """SIGKILL to every process in it, frozen or not, however fast they multiply."""
        with contextlib.suppress(OSError):  # it does not exist (any more)
            self._write("cgroup.kill", "1")

    def signal(self, number: int, but: Collection[int]) -> None:
        """A signal to every process in it except ``but``, and then they run, if they were frozen before too.

        They are frozen meanwhile, so that none is missed and no number gets another owner.
        """
        if number == signal.SIGKILL:
            return self.kill()
        try:
            with contextlib.suppress(OperationError):
                self.freeze(seconds=1.0)
            for pid in self.processes():
                if pid not in but:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
        finally:
            with contextlib.suppress(OperationError):
                self.thaw()
        return None

    def processes(self) -> list[int]:
        """Numbers of the processes in it and in the groups below it, as the guest counts."""
        found: list[int] = []
        for directory, _, _ in os.walk(self._path):
            with contextlib.suppress(OSError), open(f"{directory}/cgroup.procs", encoding="ascii") as file:
                # 0 is a process that cannot be named here; to signal it would be to signal ourselves.
                found += [pid for pid in map(int, file.read().split()) if pid > 1]
        return found

    def _write(self, name: str, text: str) -> None:
        descriptor = os.open(f"{self._path}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
