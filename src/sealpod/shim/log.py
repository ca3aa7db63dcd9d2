# SPDX-License-Identifier: Apache-2.0
"""Lines for containerd's own log, through the ``log`` FIFO of the bundle; dropped when nobody reads."""

from __future__ import annotations

import contextlib
import os
from typing import Final

MAX_LINE: Final = 2000
PIPE_BUF: Final = 4096
"""Bytes that a FIFO takes whole or not at all (pipe(7)): a line is never cut by a full one."""


class Log:
    """Writes lines. ``debug`` ones only when containerd asked for them."""

    def __init__(self, bundle: str, name: str, *, debug: bool = False) -> None:
        self._name = name
        self._debug = debug
        self._descriptor = -1
        with contextlib.suppress(OSError):
            path = os.path.join(bundle, "log")
            # Read and write: the FIFO outlives a reader that restarts, and opening never waits for one.
            self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def say(self, text: str) -> None:
        """One line."""
        line = "".join(char if char.isprintable() else " " for char in text[:MAX_LINE])
        data = f"sealpod {self._name[:12]}: {line}".encode(errors="replace")[: PIPE_BUF - 1] + b"\n"
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.write(self._descriptor, data)

    def debug(self, text: str) -> None:
        """One line, if debugging."""
        if self._debug:
            self.say(text)

    def take_records(self) -> None:
        """Say what the process's loggers are told, such as keys of a configuration that nobody knows."""
        # Late: the module takes its time, and only the serving process says records.
        import logging

        class Records(logging.Handler):
            def emit(handler, record: logging.LogRecord) -> None:  # noqa: N805 - self is the log
                self.say(record.getMessage())

        logging.basicConfig(handlers=[Records()], level=logging.INFO if self._debug else logging.WARNING)

    def close(self) -> None:
        """Say nothing more."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
