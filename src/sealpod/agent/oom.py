# SPDX-License-Identifier: Apache-2.0
"""Notice that the kernel killed a container's process for its memory limit.

The kernel raises POLLPRI on ``memory.events`` of cgroup v2 when a number in it changes, so nobody polls. When
the guest itself has no memory left there is no limit that says whose fault it is, and nothing is told; the
agent outlives that, because the kernel never chooses PID 1.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections import deque
from typing import Final

from sealpod.errors import ConflictError

CGROUPS: Final = "/sys/fs/cgroup"
MAX_EVENTS: Final = 256
"""Ids kept for a host that does not ask; the oldest go first."""


class Oom:
    """Watches containers' cgroups and queues the ids of those that lost a process, once for each time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._events: deque[str] = deque(maxlen=MAX_EVENTS)
        self._asked = 0

    def wait(self) -> str:
        """The next container's id, when there is one.

        Only the latest caller is answered: an earlier one may be of a connection that is gone, and would
        take an event with it. Raises :class:`ConflictError` (``container.oom``) for the earlier.
        """
        with self._changed:
            self._asked += 1
            mine = self._asked
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._events or self._asked != mine)
            if self._asked != mine:
                raise ConflictError("another call asks for these events now", code="container.oom")
            return self._events.popleft()

    def watch(self, container_id: str, cgroup: str) -> None:
        """Watch in a thread of its own until the cgroup is gone. ``cgroup`` as in ``cgroupsPath``."""
        with contextlib.suppress(OSError):  # no memory controller, so no limit either
            descriptor = os.open(f"{CGROUPS}{cgroup}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
            threading.Thread(target=self._watch, args=(container_id, descriptor), daemon=True).start()

    def _watch(self, container_id: str, descriptor: int) -> None:
        seen = 0
        poll = select.poll()
        poll.register(descriptor, select.POLLPRI)
        try:
            while True:
                killed = count(os.pread(descriptor, 4096, 0))
                if killed > seen:
                    self.add(container_id)
                seen = killed
                poll.poll()
        except OSError:
            pass  # the cgroup was removed
        finally:
            os.close(descriptor)

    def add(self, container_id: str) -> None:
        """Queue one."""
        with self._changed:
            self._events.append(container_id)
            self._changed.notify_all()


def count(text: bytes) -> int:
    """``oom_kill`` of ``memory.events``: how many processes were killed."""
    for line in text.decode("ascii", "replace").splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.isdecimal():
            return int(value)
    return 0
