# SPDX-License-Identifier: Apache-2.0
"""A process's standard streams: three pipes, read and written on the caller's request.

Nothing is buffered here. When the host does not read, the kernel's pipe fills and the container's write
blocks; that is the whole back-pressure. A read waits for output; the end of a stream is the error
``read meet eof``, which is how Kata's API says it. A stream ends when the last process has closed it, so it
may outlive the one it was made for. Closing wakes whoever waits: no reader can hold up a removal.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from sealpod.errors import ConflictError, SealpodError, UnavailableError, UsageError

MAX_READ: Final = 1 << 20
"""Bytes of one answer; below the 4 MiB of a ttrpc message."""
PIPE_SIZE: Final = 1 << 20
"""Bytes an output's pipe holds (the kernel's default is 64 KiB): fewer turns for the same output. The memory
is charged to the container that fills it."""
STDIN, STDOUT, STDERR = 0, 1, 2

_Answer = TypeVar("_Answer")


class End:
    """Our end of a stream. It never blocks in the kernel's read or write, so that closing it ends a wait."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._wake = -1
        self._lock = threading.Lock()
        self._users = 0
        self._writing = threading.Lock()
        self.closed = False

    def read(self, size: int) -> bytes:
        """What is there, at most ``size`` bytes, waiting for the first one.

        :raise UsageError: ``stream.eof`` with the text ``read meet eof``: the stream has ended.
        """
        wanted = max(1, min(size, MAX_READ))
        try:
            data = self._use(lambda descriptor: os.read(descriptor, wanted), select.POLLIN)
        except OSError as exc:
            if exc.errno != errno.EIO:  # what a terminal says when nobody has it open any more
                raise
            data = b""
        if not data:
            self.close()
            raise UsageError("read meet eof", code="stream.eof")
        return data

    def write(self, data: bytes) -> int:
        """Give ``data`` to the reader, waiting while it has no room. Raises ConflictError if gone."""
        view = memoryview(data)

        def some(descriptor: int) -> int:
            return os.write(descriptor, view)

        with self._writing:  # two callers' bytes do not mix
            while view:
                try:
                    taken = self._use(some, select.POLLOUT)
                except OSError as exc:
                    raise _closed("the container has closed its input") from exc
                if taken is None:
                    raise _closed("standard input is closed")
                view = view[taken:]
        return len(data)

    def close(self) -> None:
        """No more of it. Whoever waits is woken; the last one out closes the descriptor. May be repeated."""
        with self._lock:
            self.closed = True
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)
            self._release()

    def control(self, operation: Callable[[int], object]) -> bool:
        """``operation`` on the descriptor; whether it is still open."""
        with self._lock:
            if not self.closed:
                operation(self._descriptor)
            return not self.closed

    def _use(self, operation: Callable[[int], _Answer], event: int) -> _Answer | None:
        """``operation`` on the descriptor once it does not block; nothing if it is or gets closed."""
        with self._lock:
            if self.closed:
                return None
            self._users += 1
        try:
            while not self.closed:
                try:
                    return operation(self._descriptor)
                except BlockingIOError:
                    self._wait(event)
            return None
        finally:
            with self._lock:
                self._users -= 1
                self._release()

    def _wait(self, event: int) -> None:
        with self._lock:
            if self.closed:
                return
            if self._wake < 0:
                self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        poll = select.poll()
        poll.register(self._descriptor, event)
        poll.register(self._wake, select.POLLIN)
        poll.poll()

    def _release(self) -> None:
        """Close the descriptors if nobody uses them any more (the lock is held)."""
        if self.closed and not self._users:
            for descriptor in (self._descriptor, self._wake):
                if descriptor >= 0:
                    os.close(descriptor)
            self._descriptor = self._wake = -1


class Stdio:
    """Our ends and the container's ends of three pipes, all closed on exec.

    ``silent``: the outputs lead nowhere, and are at their end for whoever reads them.
    """

    def __init__(self, *, silent: bool = False) -> None:
        stdin, ours = os.pipe()
        out, stdout = _output(silent)
        err, stderr = _output(silent)
        self.child = (stdin, stdout, stderr)
        self._ends = {STDIN: End(ours), STDOUT: End(out), STDERR: End(err)}

    def close_child(self) -> None:
        """Close the container's ends here; must follow its creation, or no stream ever ends."""
        for descriptor in self.child:
            os.close(descriptor)
        self.child = (-1, -1, -1)

    def read(self, stream: int, size: int) -> bytes:
        """See :meth:`End.read`."""
        return self._ends[stream].read(size)

    def write(self, data: bytes) -> int:
        """Give ``data`` to standard input. Raises :class:`ConflictError` (``stream.closed``)."""
        return self._ends[STDIN].write(data)

    def close_stdin(self) -> None:
        """Standard input ends. May be repeated."""
        self._ends[STDIN].close()

    def resize(self, rows: int, columns: int) -> None:
        """Pipes have no size. Raises :class:`UnavailableError` (``container.terminal``)."""
        raise UnavailableError("no tty", code="container.terminal")

    def close(self) -> None:
        """Close all three."""
        for end in self._ends.values():
            end.close()


def _output(silent: bool) -> tuple[int, int]:
    """Our end and the container's end of an output."""
    ours, theirs = os.pipe()
    if silent:
        os.close(theirs)
        return ours, os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    # The kernel may refuse; then it stays as it is.
    with contextlib.suppress(OSError):
        fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    return ours, theirs


def _closed(text: str) -> SealpodError:
    return ConflictError(text, code="stream.closed")
