# SPDX-License-Identifier: Apache-2.0
"""Progress on standard error: one line, rewritten on a terminal, one line per step elsewhere."""

from __future__ import annotations

import os
import sys
import time
from typing import Final, TextIO

PHASES: Final = {
    "inputs": "hashing firmware, kernel and initrd",
    "bundle": "getting a session from the key broker",
    "start": "starting the guest, paused",
    "measure": "measuring the guest",
    "attest": "asking the key broker for the secret",
    "inject": "placing the secret in the guest",
    "boot": "booting the guest",
    "sandbox": "preparing the guest",
    "pull": "pulling the image inside the guest",
    "run": "running the container",
    "stop": "stopping the guest",
}


class Progress:
    """Tells what is going on. ``quiet`` says nothing."""

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._live = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._begin = time.monotonic()
        self._shown = False
        self.current = ""
        """What is going on now."""

    def step(self, text: str) -> None:
        """A new step begins."""
        self.current = text
        if self._quiet:
            return
        seconds = time.monotonic() - self._begin
        if self._live:
            self._stream.write(f"\r\x1b[K[{seconds:5.1f} s] {text} ...")
            self._shown = True
        else:
            self._stream.write(f"[{seconds:5.1f} s] {text}\n")
        self._stream.flush()

    def phase(self, name: str) -> None:
        """A launch phase begins."""
        self.step(PHASES.get(name, name))

    def note(self, text: str) -> None:
        """A sentence that stays on the screen."""
        if not self._quiet:
            self.clear()
            self._stream.write(f"sealpod: {text}\n")
            self._stream.flush()

    def clear(self) -> None:
        """Remove the live line, before other output."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._shown = False


class StreamProgress:
    """Progress of streams: a step for each of them."""

    def __init__(self, quiet: bool) -> None:
        self._progress = Progress(quiet=quiet)
        self._last = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        """``done`` of ``total`` bytes of ``what`` have passed."""
        if what != self._last:
            self._last = what
            self._progress.step(f"{what} ({total} bytes)")

    def clear(self) -> None:
        """Remove the live line, before other output."""
        self._progress.clear()
