# SPDX-License-Identifier: Apache-2.0
"""Find the QEMU binary and read its version.

The version decides one thing: whether the unmodified kernel must be offered to the firmware by hand
(:data:`SERVES_KERNEL_ITSELF`).
"""

from __future__ import annotations

import asyncio
import re
import shutil
from dataclasses import dataclass
from typing import Final

from sealpod.errors import NotFoundError, OperationError

BINARY: Final = "qemu-system-x86_64"
# From this major version QEMU adds the fw_cfg item etc/boot/kernel by itself; a second one is an error.
SERVES_KERNEL_ITSELF: Final = (10, 0)
_VERSION = re.compile(r"version (\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class Qemu:
    """A QEMU on this machine: absolute path and (major, minor)."""

    path: str
    version: tuple[int, int]

    @property
    def serves_kernel_unmodified(self) -> bool:
        """True when ``-kernel`` alone shows the firmware the unmodified file outside SEV."""
        return self.version >= SERVES_KERNEL_ITSELF


async def find_qemu(path: str | None = None) -> Qemu:
    """The QEMU at ``path``, else the first on PATH.

    Raises NotFoundError when there is none, OperationError when it does not tell its version.
    """
    found = shutil.which(path or BINARY)
    if found is None:
        raise NotFoundError(
            f"{path or BINARY} is not installed",
            code="qemu.missing",
            remedy="install the package qemu-system-x86",
        )
    process = await asyncio.create_subprocess_exec(
        found, "--version", stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return Qemu(found, parse_version(output.decode(errors="replace")))


def parse_version(text: str) -> tuple[int, int]:
    """(major, minor) from the first line of ``--version``; OperationError when it is not there."""
    match = _VERSION.search(text)
    if match is None:
        raise OperationError(f"QEMU does not tell its version: {text[:80]!r}", code="qemu.version")
    return int(match[1]), int(match[2])
