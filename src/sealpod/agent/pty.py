# SPDX-License-Identifier: Apache-2.0
"""A terminal for a process: crun makes it inside the container and sends its master here.

The descriptor comes over a unix socket (crun's ``--console-socket``). Both outputs read the master, as in
Kata; the kernel says EIO when the last process has closed the terminal, which is the end of the stream.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import termios
import threading
from typing import Final

from sealpod.agent.stdio import End
from sealpod.errors import ConflictError, OperationError, SealpodError, UnavailableError, UsageError

MAX_SIZE: Final = 0xFFFF
"""Rows or columns: the kernel's ``struct winsize`` has 16 bits for each."""
DRAIN_SIZE: Final = 64 << 10  # bytes of one read
_SIZE = struct.Struct("HHHH")


class ConsoleSocket:
    """Where crun connects to hand a terminal over."""

    def __init__(self, path: str) -> None:
        self.path = path
        directory = os.open(os.path.dirname(path), os.O_PATH | os.O_CLOEXEC)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # A socket's address has 107 bytes, too few for a directory named after a long container id.
            self._listener.bind(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
            self._listener.listen(1)
            self._listener.setblocking(False)
        except BaseException:
            self._listener.close()
            raise
        finally:
            os.close(directory)

    def receive(self) -> Terminal:
        """The terminal crun has sent before it ended. Raises OperationError (``container.terminal``)."""
        try:
            connection, _ = self._listener.accept()
            with connection:
                _, descriptors, _, _ = socket.recv_fds(connection, 4096, 1, socket.MSG_CMSG_CLOEXEC)
            return Terminal(descriptors[0])
        except (OSError, IndexError) as exc:
            raise OperationError("the container gave no terminal", code="container.terminal") from exc

    def close(self) -> None:
        """Remove the socket."""
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


class Terminal:
    """The master of a pseudo terminal."""

    def __init__(self, master: int) -> None:
        self._end = End(master)
        self._input_closed = False

    def read(self, stream: int, size: int) -> bytes:
        """See :meth:`End.read`; ``stream`` makes no difference."""
        return self._end.read(size)

    def write(self, data: bytes) -> int:
        """Type ``data``."""
        if self._input_closed:
            raise ConflictError("standard input is closed", code="stream.closed")
        return self._end.write(data)

    def close_stdin(self) -> None:
        """Nothing more is typed. A terminal has no end of input of its own, so the process is not told."""
        self._input_closed = True

    def resize(self, rows: int, columns: int) -> None:
        """Tell the terminal its size."""
        if max(rows, columns) > MAX_SIZE:
            text = f"a terminal has at most {MAX_SIZE} rows and columns"
            raise UsageError(text, code="container.terminal")
        size = _SIZE.pack(rows, columns, 0, 0)
        if not self._end.control(lambda master: fcntl.ioctl(master, termios.TIOCSWINSZ, size)):
            raise UnavailableError("no tty: it is closed", code="container.terminal")

    def drain(self) -> None:
        """Read it to its end in a thread of its own, for a terminal nobody else may read."""
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        with contextlib.suppress(SealpodError, OSError):
            while True:
                self._end.read(DRAIN_SIZE)

    def close(self) -> None:
        """Close the master; processes that still have the terminal get SIGHUP."""
        self._end.close()
