# SPDX-License-Identifier: Apache-2.0
"""Notice that the kernel killed a container's process for its memory limit.

The kernel raises POLLPRI on ``memory.events`` of cgroup v2 when a number in it changes, so nobody polls.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import threading
from typing import Final

CGROUPS: Final = "/sys/fs/cgroup"
MAX_EVENTS: Final = 256


class Oom:
    """Watches containers' cgroups and queues the ids of those that lost a process."""

    def __init__(self) -> None:
        self._events: queue.Queue[str] = queue.Queue(MAX_EVENTS)

    def wait(self) -> str:
        """The next container's id, when there is one."""
        return self._events.get()

    def watch(self, container_id: str, cgroup: str) -> None:
        """Watch in a thread of its own until the cgroup is gone. ``cgroup`` as in ``cgroupsPath``."""
        path = f"{CGROUPS}{cgroup}/memory.events"
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            threading.Thread(target=self._watch, args=(container_id, descriptor), daemon=True).start()

    def _watch(self, container_id: str, descriptor: int) -> None:
        seen = 0
        poll = select.poll()
        poll.register(descriptor, select.POLLPRI)
        try:
            while True:
                killed = _killed(os.pread(descriptor, 4096, 0))
                if killed > seen:
                    with contextlib.suppress(queue.Full):
                        self._events.put_nowait(container_id)
                seen = killed
                poll.poll()
        except OSError:
            pass  # the cgroup was removed
        finally:
            os.close(descriptor)


def _killed(text: bytes) -> int:
    for line in text.decode("ascii", "replace").splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.isdecimal():
            return int(value)
    return 0
