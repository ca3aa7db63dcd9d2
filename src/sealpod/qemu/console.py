# SPDX-License-Identifier: Apache-2.0
"""The guest's serial console: the last lines, and events to wait on.

The guest is not trusted by the host: what it prints is bounded in memory, and control characters are
replaced before a line reaches a terminal or an error text.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections import deque
from typing import Final

MAXIMUM_LINES: Final = 400
MAXIMUM_LINE: Final = 1024  # characters
_DUMPS: Final = re.compile(
    r"\[ *\d+\.\d+\] +(?:"
    r"(?:Code|R(?!IP)[A-Z]{2}|R\d\d|[EF]?FLAGS|[CEFG]S|[CD]R\d|PKRU|Modules linked in|Kernel Offset): "
    r"|Call Trace:|</?[A-Z]+>|\? |---\[|(?!RIP)\S+\+0x[0-9a-f]+/0x)"
)
"""What an oops of Linux has beside its words (arch/x86/kernel/dumpstack.c): registers, code, stack."""
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])")


class Console:
    """Collects console output from a stream socket until it closes."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=MAXIMUM_LINES)
        self._partial = ""
        self._waiters: list[tuple[str, asyncio.Event]] = []

    def feed(self, data: bytes) -> None:
        """Take bytes as they come."""
        text = self._partial + data.decode(errors="replace")
        *lines, self._partial = text.split("\n")
        # An endless line is cut rather than kept.
        self._partial = self._partial[-MAXIMUM_LINE:]
        for line in lines:
            self._add(clean(line))
        self._notify(clean(self._partial))

    def _add(self, line: str) -> None:
        if line:
            self._lines.append(line)
            self._notify(line)

    def _notify(self, line: str) -> None:
        for marker, event in self._waiters:
            if marker in line:
                event.set()

    def watch(self, marker: str) -> asyncio.Event:
        """An event that is set when a line containing ``marker`` appears (or has appeared)."""
        event = asyncio.Event()
        if any(marker in line for line in self._lines):
            event.set()
        self._waiters.append((marker, event))
        return event

    def tail(self, count: int = 12) -> tuple[str, ...]:
        """The last ``count`` lines that are not empty, oldest first."""
        lines = [*self._lines]
        if partial := clean(self._partial):
            lines.append(partial)
        return tuple(lines[-count:])

    def words(self, count: int = 12) -> tuple[str, ...]:
        """The last ``count`` lines that say something: a panic's reason stands far above its registers."""
        lines = [line for line in self.tail(MAXIMUM_LINES) if not _DUMPS.match(line)]
        return tuple(lines[-count:])

    async def collect(self, source: socket.socket) -> None:
        """Read ``source`` (non-blocking) until it closes."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):
            while data := await loop.sock_recv(source, 65536):
                self.feed(data)


def clean(line: str) -> str:
    """A console line fit for a terminal: no escape sequences, no control characters, bounded."""
    text = _ESCAPES.sub("", line)
    return "".join(char for char in text if char.isprintable())[:MAXIMUM_LINE].strip()
