# SPDX-License-Identifier: Apache-2.0
"""Take apart what a sandbox whose shim was killed left behind.

QEMU and the platform's process end with the shim that started them; what stays is the taps, the control
groups, the directory, and whatever the kernel was too late for. Imports little: containerd waits five seconds
for it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any, Final

from sealpod.errors import NotFoundError, UsageError
from sealpod.sandbox import state
from sealpod.sandbox.groupcleanup import remove_recorded

SECONDS: Final = 2.0  # for one command


def clean_up(sandbox_id: str) -> None:
    """Kill the recorded processes, remove taps, control groups and directory.

    Nothing happens for a sandbox nobody knows.
    """
    try:
        place = state.SandboxState(sandbox_id)
        record = place.read()
    except (NotFoundError, UsageError):
        return
    processes = record.get("processes")
    state.kill_recorded([*processes.values()] if isinstance(processes, dict) else [])
    detach_recorded(record)
    remove_recorded(record)
    place.remove()


def detach_recorded(record: dict[str, Any]) -> None:
    """Remove the taps and filters of a record; what is gone already is no error."""
    path, interfaces = record.get("netns"), record.get("interfaces")
    if not isinstance(path, str) or not path or not os.path.exists(path) or not isinstance(interfaces, list):
        return
    for entry in interfaces:
        if isinstance(entry, dict) and isinstance(tap := entry.get("tap"), str) and tap.endswith("_kata"):
            _run(path, ["ip", "link", "delete", "dev", tap])
            _run(path, ["tc", "qdisc", "delete", "dev", str(entry.get("name")), "ingress"])


def _run(path: str, command: Sequence[str]) -> None:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            [shutil.which("nsenter") or "nsenter", f"--net={path}", "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
            check=False,
        )
