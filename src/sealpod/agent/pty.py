# SPDX-License-Identifier: Apache-2.0
"""A terminal for a process: crun makes it inside the container and sends its master here.

The descriptor comes over a unix socket (crun's ``--console-socket``). Both outputs read the master, as in
Kata; the kernel says EIO when the last process has closed the terminal, which is the end of the stream.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
import threading
from typing import Final, Protocol

from sealpod.agent.stdio import MAX_READ
from sealpod.errors import ConflictError, OperationError, UnavailableError, UsageError

RECEIVE_SECONDS: Final = 60.0
_SIZE = struct.Struct("HHHH")


class Streams(Protocol):
    """What a process's streams offer: pipes (:class:`~sealpod.agent.stdio.Stdio`) or a terminal."""

    def read(self, stream: int, size: int) -> bytes: ...

    def write(self, data: bytes) -> int: ...

    def close_stdin(self) -> None: ...

    def resize(self, rows: int, columns: int) -> None: ...

    def close(self) -> None: ...


class ConsoleSocket:
    """Where crun connects to hand a terminal over."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(1)
        self._listener.settimeout(RECEIVE_SECONDS)

    def receive(self) -> Terminal:
        """The terminal. Raises :class:`OperationError` (``container.terminal``) if none comes."""
        try:
            connection, _ = self._listener.accept()
            with connection:
                connection.settimeout(RECEIVE_SECONDS)
                _, descriptors, _, _ = socket.recv_fds(connection, 4096, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError as exc:
            raise OperationError("the container gave no terminal", code="container.terminal") from exc
        if not descriptors:
            raise OperationError("the container gave no terminal", code="container.terminal")
        return Terminal(descriptors[0])

    def close(self) -> None:
        """Remove the socket."""
        self._listener.close()
        if os.path.exists(self.path):
            os.unlink(self.path)


class Terminal:
    """The master of a pseudo terminal."""

    def __init__(self, master: int) -> None:
        self._master = master
        self._input_closed = False
        self._reading = threading.Lock()

    def read(self, stream: int, size: int) -> bytes:
        """Wait for output, at most ``size`` bytes; ``stream`` makes no difference.

        :raise UsageError: ``stream.eof`` with the text ``read meet eof``: the terminal is closed.
        """
        with self._reading:
            try:
                data = os.read(self._master, max(1, min(size, MAX_READ))) if self._master >= 0 else b""
            except OSError:
                data = b""  # EIO: nobody has the terminal open any more
        if not data:
            raise UsageError("read meet eof", code="stream.eof")
        return data

    def write(self, data: bytes) -> int:
        """Type ``data``."""
        if self._input_closed or self._master < 0:
            raise ConflictError("standard input is closed", code="stream.closed")
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._master, view) :]
            except OSError as exc:
                raise ConflictError("the terminal is closed", code="stream.closed") from exc
        return len(data)

    def close_stdin(self) -> None:
        """Nothing more is typed. A terminal has no end of input of its own, so the process is not told."""
        self._input_closed = True

    def resize(self, rows: int, columns: int) -> None:
        """Tell the terminal its size."""
        if max(rows, columns) > 0xFFFF:
            raise UsageError("a terminal has at most 65535 rows and columns", code="container.terminal")
        if self._master < 0:
            raise UnavailableError("no tty", code="container.terminal")
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, _SIZE.pack(rows, columns, 0, 0))

    def close(self) -> None:
        """Close the master; the process must have ended."""
        master, self._master = self._master, -1
        if master >= 0:
            os.close(master)
