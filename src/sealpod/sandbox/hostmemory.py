# SPDX-License-Identifier: Apache-2.0
"""Whether the host's kernel killed a pod's processes for memory, and whose limit it was.

The kernel counts what it killed in the group of who was killed: ``oom_kill`` of ``memory.events`` (v2) or of
``memory.oom_control`` (v1, Linux 4.13). The limit is of that group or one above it that was hit. Without one
it was the host itself that had no memory left.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from sealpod.errors import LaunchError
from sealpod.sandbox.cgroupfs import read
from sealpod.sandbox.cgroupplan import OVERHEAD

CODE: Final = "guest.host-memory"
"""Of a machine's end that the host's kernel brought about for memory."""
_NO_LIMIT: Final = 1 << 60  # v1 says "none" by a number near 2**63
_POD: Final = (
    "raise the overhead of the pod's RuntimeClass, or the limits of its containers, or lower default_memory"
)
_OVERHEAD: Final = f"raise the limit of the control group {OVERHEAD}"
_HOST: Final = "this machine has too little memory for its pods: stop others, or lower default_memory"


@dataclass(frozen=True, slots=True)
class Limit:
    """A group whose limit was hit; bytes."""

    group: str
    bytes: int


def kills(directory: str, version: int) -> int:
    """How many processes of the group at ``directory`` the kernel has killed for memory."""
    text = read(f"{directory}/{'memory.events' if version == 2 else 'memory.oom_control'}")
    return counter(text or "", "oom_kill")


def limit_hit(mount: str, directory: str, version: int) -> Limit | None:
    """The nearest group from ``directory`` up whose limit was hit; None when none was."""
    while directory.startswith(f"{mount}/"):
        if found := _limit(directory, version):
            return Limit(directory.removeprefix(mount), found)
        directory = os.path.dirname(directory)
    return None


def counter(text: str, name: str) -> int:
    """A number of a file of lines ``name number``; 0 when it has none."""
    for line in text.splitlines():
        key, _, number = line.partition(" ")
        if key == name and number.isdecimal():
            return int(number)
    return 0


def _limit(directory: str, version: int) -> int:
    """Its limit when it was hit, else 0. memory.events itself would count the groups below as well."""
    if version == 2:
        hits = counter(read(f"{directory}/memory.events.local") or "", "oom")
        limit = _number(f"{directory}/memory.max")
    else:
        hits, limit = _number(f"{directory}/memory.failcnt"), _number(f"{directory}/memory.limit_in_bytes")
    return limit if hits and limit < _NO_LIMIT else 0


def _number(path: str) -> int:
    text = read(path) or ""
    return int(text) if text.isdecimal() else 0


def killed(limit: Limit | None, console: tuple[str, ...] = ()) -> LaunchError:
    """What is said of a machine that the kernel killed for memory."""
    if limit is None:
        text, remedy = "the host ran out of memory and killed QEMU", _HOST
    else:
        owner = "its overhead's group" if limit.group.startswith(OVERHEAD) else "the pod"
        remedy = _OVERHEAD if limit.group.startswith(OVERHEAD) else _POD
        text = f"the host's memory limit of {owner} killed QEMU ({limit.bytes >> 20} MiB, {limit.group})"
    return LaunchError(text, code=CODE, remedy=remedy, console=console)
