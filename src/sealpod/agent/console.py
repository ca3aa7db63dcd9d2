# SPDX-License-Identifier: Apache-2.0
"""The agent's words on the guest's console, which the host shows to the user: one line each, never a secret.

Written with ``os.write`` to the inherited standard error, because a line must stand whole between the
kernel's own lines, and because importing ``logging`` costs boot time.
"""

from __future__ import annotations

import contextlib
import os

PREFIX = "sealpod: "
MAX_LINE = 1000
"""Characters; longer lines come from a peer's texts and are cut."""


class Console:
    """Writes lines to a file descriptor; ``debug`` lines only when asked for."""

    def __init__(self, descriptor: int = 2, *, debug: bool = False) -> None:
        self._descriptor = descriptor
        self.verbose = debug

    def say(self, text: str) -> None:
        """One line. A console that cannot be written to must not stop a container."""
        line = "".join(c if c.isprintable() else " " for c in text[:MAX_LINE])
        with contextlib.suppress(OSError):
            os.write(self._descriptor, f"{PREFIX}{line}\n".encode())

    def debug(self, text: str) -> None:
        """One line, if debugging."""
        if self.verbose:
            self.say(text)
