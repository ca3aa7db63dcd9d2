# SPDX-License-Identifier: Apache-2.0
"""What a process talks through: pipes or a terminal, made before it and handed over when it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from sealpod.agent.stdio import Stdio

if TYPE_CHECKING:
    from sealpod.agent.pty import ConsoleSocket


class Streams(Protocol):
    """Pipes (:class:`~sealpod.agent.stdio.Stdio`) or a terminal (:class:`~sealpod.agent.pty.Terminal`)."""

    def read(self, stream: int, size: int) -> bytes: ...

    def write(self, data: bytes) -> int: ...

    def close_stdin(self) -> None: ...

    def resize(self, rows: int, columns: int) -> None: ...

    def close(self) -> None: ...


class Opening:
    """Streams for the OCI ``process`` about to be made. A context manager: closed unless taken.

    ``place`` is a path without its suffix; a terminal's socket stands there meanwhile. ``silent``: nobody may
    read the outputs, so that what is written is dropped instead of filling a pipe.
    """

    def __init__(self, place: str, process: dict[str, Any], *, silent: bool = False) -> None:
        self._silent = silent
        self._console: ConsoleSocket | None = None
        self._pipes: Stdio | None = None
        self._size = process.get("consoleSize")
        self._taken = False
        if process.get("terminal"):
            from sealpod.agent.pty import ConsoleSocket  # few processes have a terminal

            self._console = ConsoleSocket(f"{place}.tty")
        else:
            self._pipes = Stdio(silent=silent)

    def __enter__(self) -> Opening:
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
        """The streams of the process, now that it was made."""
        streams: Streams | None = self._pipes
        if self._console is not None:
            streams = terminal = self._console.receive()
            if self._size:
                terminal.resize(self._size["height"], self._size["width"])
            if self._silent:
                terminal.drain()
        if streams is None:
            raise TypeError("streams are either pipes or a terminal")
        self._taken = True
        return streams

    def __exit__(self, *_: object) -> None:
        if self._console is not None:
            self._console.close()
        if self._pipes is not None:
            self._pipes.close_child()
            if not self._taken:
                self._pipes.close()
