# SPDX-License-Identifier: Apache-2.0
"""One container from creation to removal, and the processes run beside its first.

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
import json
import os
import re
import signal
import threading
from typing import Any, Final

from sealpod.agent import rootfs
from sealpod.agent.process import Process
from sealpod.agent.pty import ConsoleSocket, Streams
from sealpod.agent.reaper import Reaper
from sealpod.agent.runtime import Runtime
from sealpod.agent.stdio import Stdio
from sealpod.errors import ConflictError, NotFoundError, SealpodError, UsageError

MAX_EXECS: Final = 128
_EXEC_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


class State(enum.Enum):
    """See the module's table."""

    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"


class Container:
    """A created container. ``init`` is its first process here, a child of ours."""

    def __init__(
        self, container_id: str, directory: str, rootfs_path: str, stdio: Streams, pid: int, runtime: Runtime
    ) -> None:
        self.id = container_id
        self.directory = directory
        self.init = Process(f"container {container_id}", pid, stdio)
        self._rootfs = rootfs_path
        self._runtime = runtime
        self._lock = threading.Lock()
        self._state = State.CREATED
        self._execs: dict[str, Process | None] = {}
        self._number = 0
        self._removing = threading.Lock()
        self._removed = False

    def watch(self, reaper: Reaper) -> None:
        """Notice the end of its first process."""
        self._reaper = reaper
        self.init.watch(reaper, self._stopped)

    def _stopped(self) -> None:
        with self._lock:
            self._state = State.STOPPED

    @property
    def state(self) -> State:
        """Where it is in its life."""
        return self._state

    def process(self, exec_id: str) -> Process:
        """The first process (its id is the container's, or empty) or one beside it."""
        if exec_id in ("", self.id):
            return self.init
        with self._lock:
            process = self._execs.get(exec_id)
        if process is None:
            raise NotFoundError(f"no process {exec_id[:128]!r}", code="container.unknown")
        return process

    def start(self) -> None:
        """Run the image's program. Raises :class:`ConflictError` (``container.state``) unless CREATED."""
        with self._lock:
            if self._state is not State.CREATED:
                text = f"container {self.id} is {self._state.value}; only a created one can be started"
                raise ConflictError(text, code="container.state")
            self._state = State.RUNNING
        self._runtime.start(self.id, self.directory)

    def run(self, exec_id: str, document: dict[str, Any], creating: threading.Lock) -> None:
        """Run another process (an OCI ``process``) in the container at once."""
        if _EXEC_ID.fullmatch(exec_id) is None:
            raise UsageError(f"{exec_id[:64]!r} is no process id", code="container.id")
        with self._lock:
            if self._state is not State.RUNNING:
                text = f"container {self.id} is {self._state.value}; nothing can be run in it"
                raise ConflictError(text, code="container.state")
            if exec_id in self._execs or exec_id == self.id:
                raise ConflictError(f"process {exec_id} exists already", code="container.exists")
            if len(self._execs) >= MAX_EXECS:
                self._make_room()
            if len(self._execs) >= MAX_EXECS:
                raise UsageError(f"a container runs {MAX_EXECS} processes at most", code="container.many")
            self._execs[exec_id] = None
            self._number += 1
            place = os.path.join(self.directory, f"exec{self._number}")
        try:
            process = self._run(exec_id, place, document, creating)
        except BaseException:
            with self._lock:
                del self._execs[exec_id]
            raise
        with self._lock:
            self._execs[exec_id] = process
        process.watch(self._reaper)

    def _run(self, exec_id: str, place: str, document: dict[str, Any], creating: threading.Lock) -> Process:
        with open(f"{place}.json", "w", encoding="utf-8") as file:
            json.dump(document, file)
        with (
            opened(place, bool(document.get("terminal"))) as io,
            # One at a time: a status nobody asked for might be that of the process about to appear.
            creating,
        ):
            self._reaper.forget_unclaimed()
            pid = self._runtime.execute(self.id, place, io.child, io.console)
            self._reaper.claim(pid)
            return Process(f"process {exec_id}", pid, io.take())

    def wait(self, exec_id: str) -> int:
        """The status of a process. It can be read on; others may take its place when there are many."""
        process = self.process(exec_id)
        status = process.wait()
        process.waited = True
        return status

    def _make_room(self) -> None:
        """Drop the older half of the processes whose status was fetched (the lock is held)."""
        over = [name for name, process in self._execs.items() if process is not None and process.waited]
        for name in over[: (len(over) + 1) // 2]:
            process = self._execs.pop(name)
            if process is not None:
                process.close()

    def kill_all(self, number: int) -> None:
        """Send a signal to every process."""
        if self._state is not State.STOPPED:
            self._runtime.kill_all(self.id, self.directory, number)

    def pause(self) -> None:
        """Freeze its processes."""
        self._runtime.pause(self.id, self.directory)

    def resume(self) -> None:
        """Let its processes go on."""
        self._runtime.resume(self.id, self.directory)

    def update(self, resources: dict[str, Any]) -> None:
        """Change its limits."""
        self._runtime.update(self.id, self.directory, resources)

    def remove(self, timeout: float | None) -> None:
        """Kill what still runs, wait for it at most ``timeout`` seconds, and clear everything away.

        Of two who ask at once, one does it and the other returns when it is done.
        """
        self.init.kill(signal.SIGKILL)  # also wakes a frozen one: a fatal signal thaws a cgroup v2's process
        self.init.wait(timeout)
        with self._removing:
            if not self._removed:
                self._removed = True
                self._clear()

    def _clear(self) -> None:
        with contextlib.suppress(SealpodError):
            # crun has forgotten a container that died early; what matters is removed below.
            self._runtime.delete(self.id, self.directory)
        for process in self._execs.values():
            if process is not None:
                process.close()
        self._execs.clear()
        self.init.close()
        rootfs.remove(self.directory, self._rootfs)


class opened:  # noqa: N801 (a context manager, used like one)
    """Streams for a process to be made: pipes, or a socket for its terminal. Closed unless taken."""

    def __init__(self, place: str, terminal: bool) -> None:
        self._console = ConsoleSocket(f"{place}.tty") if terminal else None
        self._pipes = None if terminal else Stdio()
        self._taken = False

    def __enter__(self) -> opened:
        return self

    @property
    def child(self) -> tuple[int, int, int] | None:
        """The container's ends of the pipes."""
        return self._pipes.child if self._pipes is not None else None

    @property
    def console(self) -> str:
        """The console socket's path; empty without a terminal."""
        return self._console.path if self._console is not None else ""

    def take(self) -> Streams:
        """The streams of the process that was made."""
        streams: Streams
        if self._console is not None:
            streams = self._console.receive()
        else:
            assert self._pipes is not None  # noqa: S101 (one of the two)
            streams = self._pipes
        self._taken = True
        return streams

    def __exit__(self, *_: object) -> None:
        if self._console is not None:
            self._console.close()
        if self._pipes is not None:
            self._pipes.close_child()
            if not self._taken:
                self._pipes.close()
