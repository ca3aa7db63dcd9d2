# SPDX-License-Identifier: Apache-2.0
"""Make, enter, empty and remove control groups: the few file operations of cgroups(7).

Imports little: ``delete`` of the shim, which containerd gives five seconds, empties groups as well.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator
from typing import Final

PROCS: Final = "cgroup.procs"
TASKS: Final = "tasks"
"""Of v1: a group's threads."""
CONTROLLERS: Final = ("cpu", "cpuset", "io", "memory", "pids", "hugetlb")
"""What a pod's group is counted or limited by, if the host has it."""
CPUSET: Final = ("cpuset.cpus", "cpuset.mems")
REMOVE_SECONDS: Final = 2.0
_RETRY_MS: Final = 10


def make(mount: str, directory: str, *, enable: bool) -> None:
    """Make the group ``directory`` below ``mount``, and those above it. OSError says what failed.

    ``enable`` (v2): the groups above pass on their controllers. That one of them cannot be is no error: what
    is nearer to the root counts and limits all the same.
    """
    current = mount
    for part in directory.removeprefix(mount).strip("/").split("/"):
        if enable:
            _pass_on(current)
        current = f"{current}/{part}"
        with contextlib.suppress(FileExistsError):
            os.mkdir(current, 0o755)
        _inherit_cpuset(current)


def join(directory: str, pid: int, *, file: str = PROCS) -> None:
    """Move a process, or with ``tasks`` a thread, to the group. OSError says what failed."""
    write(f"{directory}/{file}", str(pid))


def members(directory: str) -> list[int]:
    """Processes with a thread in the group; none when it is gone."""
    with contextlib.suppress(OSError), open(f"{directory}/{PROCS}", encoding="ascii") as source:
        return [int(line) for line in source.read().split()]
    return []


def remove(directories: Iterable[str], seconds: float = REMOVE_SECONDS) -> list[str]:
    """Kill whoever is in the groups, remove them; those that stay. What is no control group is let be."""
    deadline = time.monotonic() + seconds
    return [one for one in directories if not _remove(one, deadline)]


def kill(directories: Iterable[str]) -> None:
    """Kill whoever is in the groups, ourselves excepted."""
    for one in directories:
        with _killed(one):
            pass


def _remove(directory: str, deadline: float) -> bool:
    while os.path.exists(f"{directory}/{PROCS}"):
        with _killed(directory) as waiting:
            try:
                os.rmdir(directory)
                return True
            except FileNotFoundError:
                return True
            except OSError:
                if time.monotonic() >= deadline:
                    return False
                # A process has ended a moment before the kernel takes it out of its group; v1 tells nobody.
                waiting.poll(_RETRY_MS)
    return True


@contextlib.contextmanager
def _killed(directory: str) -> Iterator[select.poll]:
    """Kill the members but ourselves; what is given wakes when one has ended, or the group is empty (v2)."""
    poll = select.poll()
    with contextlib.ExitStack() as scope:
        with contextlib.suppress(OSError):
            events = os.open(f"{directory}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
            scope.callback(os.close, events)
            os.read(events, 4096)
            poll.register(events, select.POLLPRI)
        for pid in members(directory):
            if pid in (0, os.getpid()):
                continue
            with contextlib.suppress(OSError):
                descriptor = os.pidfd_open(pid)
                scope.callback(os.close, descriptor)
                # The number may have gone to somebody else meanwhile, who is not in the group.
                if pid in members(directory):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    poll.register(descriptor, select.POLLIN)
        yield poll


def _pass_on(directory: str) -> None:
    offered: list[str] = []
    with contextlib.suppress(OSError), open(f"{directory}/cgroup.controllers", encoding="ascii") as source:
        offered = source.read().split()
    for one in CONTROLLERS:
        # One by one, since a write is all or nothing.
        if one in offered:
            with contextlib.suppress(OSError):
                write(f"{directory}/cgroup.subtree_control", f"+{one}")


def _inherit_cpuset(directory: str) -> None:
    """v1: no task can enter a group without processors and memory nodes, which new ones have not."""
    for name in CPUSET:
        if read(f"{directory}/{name}") == "" and (above := read(f"{os.path.dirname(directory)}/{name}")):
            with contextlib.suppress(OSError):
                write(f"{directory}/{name}", above)


def write(path: str, text: str) -> None:
    """Write one value, at once. The kernel's refusal is an OSError with the file's name."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode("ascii"))
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(descriptor)


def read(path: str) -> str | None:
    """A file's text without its last line's end; None when there is none to read."""
    with contextlib.suppress(OSError), open(path, encoding="ascii", errors="replace") as source:
        return source.read(1 << 16).strip()
    return None


def read_whole(path: str) -> str:
    """A file of /proc, in which names may have any bytes; empty when there is none."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="surrogateescape") as source:
        return source.read()
    return ""
