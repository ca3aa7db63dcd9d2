# SPDX-License-Identifier: Apache-2.0
"""One container from creation to removal, and the processes run beside its first.

==========  =======================================  ==========================
state       meaning                                  leaves it by
==========  =======================================  ==========================
CREATED     its first process waits inside           ``start``
RUNNING     the image's program runs                 ``pause``, the program's end
PAUSED      all its processes are frozen             ``resume``, a signal to all
STOPPED     it has ended; its status is known        ``remove``
==========  =======================================  ==========================

A container whose first process ends (killed, say) goes to STOPPED from anywhere, and everything else in it is
killed then, so that its streams end.
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
from sealpod.agent.cgroup import Cgroup
from sealpod.agent.process import Process
from sealpod.agent.reaper import Reaper
from sealpod.agent.runtime import Runtime
from sealpod.agent.streams import Opening, Streams
from sealpod.errors import ConflictError, NotFoundError, SealpodError, UsageError

MAX_EXECS: Final = 128
_EXEC_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


class State(enum.Enum):
    """See the module's table."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


class Container:
    """A created container. ``init`` is its first process here, a child of ours."""

    def __init__(
        self,
        container_id: str,
        directory: str,
        rootfs_path: str,
        stdio: Streams,
        pid: int,
        runtime: Runtime,
        *,
        silent: bool = False,
    ) -> None:
        self.id = container_id
        self.directory = directory
        self.init = Process(f"container {container_id}", pid, stdio)
        self.message = ""
        """Path of the file it may leave its last words in; empty without one."""
        self.image = ""
        """Directory of its unpacked image, which is its alone and lies in the guest's memory."""
        self._silent = silent
        self._rootfs = rootfs_path
        self._runtime = runtime
        self._cgroup = Cgroup(container_id)
        self._lock = threading.Lock()
        self._changing = threading.Lock()
        """Held while crun works inside, which a frozen container would stop half way."""
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
        # With a pid namespace of its own the kernel has done so; with the pod's, the others would live on.
        self._cgroup.kill()

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
        with self._changing:
            self._change((State.CREATED,), State.RUNNING, "only a created one can be started")
            self._runtime.start(self.id, self.directory)

    def run(self, exec_id: str, document: dict[str, Any], creating: threading.Lock) -> None:
        """Run another process (an OCI ``process``) in the container at once."""
        if _EXEC_ID.fullmatch(exec_id) is None:
            raise UsageError(f"{exec_id[:64]!r} is no process id", code="container.id")
        with self._changing:
            place = self._reserve(exec_id)
            try:
                process = self._launch(exec_id, place, document, creating)
            except BaseException:
                with self._lock:
                    self._execs.pop(exec_id, None)
                raise
            with self._lock:
                removed = self._removed
                if not removed:
                    self._execs[exec_id] = process
        process.watch(self._reaper)
        if removed:
            process.kill(signal.SIGKILL)
            process.stdio.close()
            raise NotFoundError(f"container {self.id} was removed", code="container.unknown")

    def _reserve(self, exec_id: str) -> str:
        """Claim the id and a place for files. An id can come again once its process's status was fetched."""
        with self._lock:
            if self._state is not State.RUNNING:
                text = f"container {self.id} is {self._state.value}; nothing can be run in it"
                raise ConflictError(text, code="container.state")
            known = self._execs.get(exec_id)
            if known is not None and known.waited:
                self._execs.pop(exec_id)
                known.stdio.close()
            if exec_id in self._execs or exec_id == self.id:
                raise ConflictError(f"process {exec_id} exists already", code="container.exists")
            if len(self._execs) >= MAX_EXECS:
                self._make_room()
            if len(self._execs) >= MAX_EXECS:
                raise UsageError(f"a container runs {MAX_EXECS} processes at most", code="container.many")
            self._execs[exec_id] = None
            self._number += 1
            return os.path.join(self.directory, f"exec{self._number}")

    def _launch(
        self, exec_id: str, place: str, document: dict[str, Any], creating: threading.Lock
    ) -> Process:
        try:
            with open(f"{place}.json", "w", encoding="utf-8") as file:
                json.dump(document, file)
            with (
                Opening(place, document, silent=self._silent) as streams,
                # One at a time: a status nobody asked for might be that of the process about to appear.
                creating,
            ):
                self._reaper.forget_unclaimed()
                pid = self._runtime.execute(self.id, place, streams.child, streams.console)
                try:
                    taken = streams.take()
                except BaseException:
                    self._reaper.kill(pid)
                    raise
                self._reaper.claim(pid)
                _set_oom_score(pid, document.get("oomScoreAdj", 0))
                return Process(f"process {exec_id}", pid, taken)
        finally:
            for suffix in ("json", "pid", "log"):
                with contextlib.suppress(OSError):
                    os.unlink(f"{place}.{suffix}")

    def _make_room(self) -> None:
        """Forget the older half of the processes whose status was fetched (the lock is held)."""
        over = [name for name, process in self._execs.items() if process is not None and process.waited]
        for name in over[: (len(over) + 1) // 2]:
            process = self._execs.pop(name)
            if process is not None:
                process.stdio.close()

    def wait(self, exec_id: str) -> int:
        """The status of a process. Its output can still be read, until another takes its place or id."""
        process = self.process(exec_id)
        status = process.wait()
        process.waited = True
        return status

    def kill(self, exec_id: str, number: int) -> None:
        """Send a signal to one process; to an ended one it is no error.

        A process the kernel drops SIGTERM for could never be asked to end; it gets SIGKILL, as Kata's agent
        does it. One that ignores it has time to end by itself.
        """
        process = self.process(exec_id)
        if process is self.init and number == signal.SIGTERM and process.drops(number):
            number = signal.SIGKILL
        process.kill(number)

    def kill_all(self, number: int) -> None:
        """Send a signal to every process. It finds them running: a paused container goes on."""
        self.kill(self.id, number)
        with self._lock:
            others = [process for process in self._execs.values() if process is not None]
        for process in others:
            process.kill(number)
        self._cgroup.signal(number, {self.init.pid, *(process.pid for process in others)})
        with self._lock:
            if self._state is State.PAUSED and number != signal.SIGKILL:
                self._state = State.RUNNING

    def pause(self) -> None:
        """Freeze its processes. To do it twice is no error."""
        with self._changing:
            self._change((State.RUNNING, State.PAUSED), State.PAUSED, "only a running one can be paused")
            try:
                self._cgroup.freeze()
            except SealpodError:
                self._change((State.PAUSED,), State.RUNNING, "")
                raise

    def resume(self) -> None:
        """Let its processes go on."""
        with self._changing:
            self._change((State.RUNNING, State.PAUSED), State.RUNNING, "only a paused one can be resumed")
            self._cgroup.thaw()

    def _change(self, of: tuple[State, ...], to: State, why: str) -> None:
        with self._lock:
            if self._state not in of:
                text = f"container {self.id} is {self._state.value}; {why}"
                raise ConflictError(text, code="container.state")
            self._state = to

    def update(self, resources: dict[str, Any]) -> None:
        """Change its limits."""
        self._runtime.update(self.id, self.directory, resources)

    def remove(self, timeout: float | None) -> None:
        """Kill what still runs, wait for it at most ``timeout`` seconds, and clear everything away.

        Of two who ask at once, one does it and the other returns when it is done.
        """
        self.kill_all(signal.SIGKILL)
        self.init.wait(timeout)
        with self._removing:
            if not self._removed:
                with self._lock:
                    self._removed = True
                self._clear()

    def _clear(self) -> None:
        with contextlib.suppress(SealpodError):
            # crun has forgotten a container that died early; what matters is removed below.
            self._runtime.delete(self.id, self.directory)
        with self._lock:
            processes = [process for process in self._execs.values() if process is not None]
            self._execs.clear()
        for process in (self.init, *processes):
            process.stdio.close()
        rootfs.remove(self.directory, self._rootfs, self.image)


def _set_oom_score(pid: int, score: int) -> None:
    """What crun (1.8) does for a container's first process only."""
    if score:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(score))
