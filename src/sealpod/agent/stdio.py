# SPDX-License-Identifier: Apache-2.0
"""A container's standard streams: three pipes, read and written on the caller's request.

Nothing is buffered here. When the host does not read, the kernel's pipe fills and the container's write
blocks; that is the whole back-pressure. A read waits for output; the end of a stream is the error
``read meet eof``, which is how Kata's API says it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from typing import Final

from sealpod.errors import ConflictError, UnavailableError, UsageError

MAX_READ: Final = 1 << 20
"""Bytes of one answer; below the 4 MiB of a ttrpc message."""
PIPE_SIZE: Final = 1 << 20
STDIN, STDOUT, STDERR = 0, 1, 2


class Stdio:
    """Our ends and the container's ends of three pipes, all closed on exec."""

    def __init__(self) -> None:
        stdin, self._stdin = os.pipe()
        self._outputs: dict[int, int] = {}
        self._outputs[STDOUT], stdout = os.pipe()
        self._outputs[STDERR], stderr = os.pipe()
        self.child = (stdin, stdout, stderr)
        for descriptor in (self._stdin, *self._outputs.values()):
            # A bigger pipe makes fewer, larger messages. The kernel may refuse; then it stays as it is.
            with contextlib.suppress(OSError):
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        self._locks = (threading.Lock(), threading.Lock(), threading.Lock())

    def close_child(self) -> None:
        """Close the container's ends here; must follow its creation, or no stream ever ends."""
        for descriptor in self.child:
            os.close(descriptor)
        self.child = (-1, -1, -1)

    def read(self, stream: int, size: int) -> bytes:
        """Wait for output and return at most ``size`` bytes of it.

        :raise UsageError: ``stream.eof`` with the text ``read meet eof``: the stream has ended.
        """
        with self._locks[stream]:
            descriptor = self._outputs.get(stream, -1)
            data = os.read(descriptor, max(1, min(size, MAX_READ))) if descriptor >= 0 else b""
        if not data:
            raise UsageError("read meet eof", code="stream.eof")
        return data

    def write(self, data: bytes) -> int:
        """Give ``data`` to the container's standard input; waits while its pipe is full."""
        with self._locks[STDIN]:
            if self._stdin < 0:
                raise ConflictError("standard input is closed", code="stream.closed")
            try:
                return _write_all(self._stdin, data)
            except BrokenPipeError as exc:
                raise ConflictError("the container has closed its input", code="stream.closed") from exc

    def close_stdin(self) -> None:
        """The container's standard input ends. May be repeated."""
        with self._locks[STDIN]:
            if self._stdin >= 0:
                os.close(self._stdin)
                self._stdin = -1

    def resize(self, rows: int, columns: int) -> None:
        """Pipes have no size. Raises :class:`UnavailableError` (``container.terminal``)."""
        raise UnavailableError("no tty", code="container.terminal")

    def close(self) -> None:
        """Close everything; the container must have ended, so that no reader is waiting."""
        self.close_stdin()
        for stream in (STDOUT, STDERR):
            with self._locks[stream]:
                descriptor = self._outputs.pop(stream, -1)
                if descriptor >= 0:
                    os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> int:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    return len(data)
