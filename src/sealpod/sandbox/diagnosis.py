# SPDX-License-Identifier: Apache-2.0
"""Why a pod's machine did not come up, in one text for whoever only sees the pod's events.

kubelet shows it behind ``failed to create containerd task: failed to create shim task:``, so it is one
sentence that begins with the phase, gives the reason, and ends with what the guest said last; remedy and code
follow as on every error.
"""

from __future__ import annotations

import copy
import errno
from collections.abc import Sequence
from typing import Final

from sealpod.errors import LaunchError, OperationError, SealpodError

MAX_TEXT: Final = 1200  # characters of reason and console together; remedy and code come on top
MAX_REASON: Final = 600
MAX_LINES: Final = 12

PHASES: Final = {
    "settings": "reading the pod's configuration",
    "cgroup": "entering the pod's control group",
    "network": "setting up the pod's network",
    "host": "opening QEMU and the platform",
    "inputs": "reading firmware, kernel and initrd",
    "bundle": "getting a session from the key broker",
    "start": "starting the guest",
    "measure": "measuring the guest",
    "attest": "asking the key broker for the secret",
    "inject": "placing the secret in the guest",
    "boot": "booting the guest",
    "interfaces": "configuring the guest's network",
    "sandbox": "preparing the guest",
}


def explained(error: Exception, phase: str, console: Sequence[str] = ()) -> SealpodError:
    """The error with phase and console in its text. Its family and code stay, and so its status."""
    found = copy.copy(error) if isinstance(error, SealpodError) else _foreign(error)
    told = tuple(getattr(found, "console", ()) or console)
    reason = _cut(" ".join(found.message.split()), MAX_REASON)
    doing = PHASES.get(phase, phase)
    text = f"{doing} failed: {reason}" if doing else reason
    if tail := _tail(told, MAX_TEXT - len(text)):
        text += f" (console: {tail})"
    found.message = text
    found.args = (text,)
    if isinstance(found, LaunchError):
        found.phase, found.console = phase, told
    found.__cause__ = error
    return found


def _foreign(error: Exception) -> SealpodError:
    if isinstance(error, OSError):
        memory = error.errno == errno.ENOMEM
        return OperationError(
            f"the system refused: {error.strerror or type(error).__name__}",
            code="launch.system",
            remedy="the machine has no memory left for another guest" if memory else "see the system's log",
        )
    return OperationError(f"unexpected {type(error).__name__}", code="internal.error", remedy="report it")


def _tail(lines: Sequence[str], room: int) -> str:
    """As many of the last lines as there is room for, the newest last."""
    kept: list[str] = []
    for line in reversed(lines[-MAX_LINES:]):
        room -= len(line) + 3
        if room < 0:
            break
        kept.append(line)
    return " | ".join(reversed(kept))


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
