# SPDX-License-Identifier: Apache-2.0
"""Pack a directory into a squashfs whose bytes depend on its content only (squashfs-tools 4.4 or newer)."""

from __future__ import annotations

import re
from typing import Final

from sealpod.guestimage import recipe, tools

PACKAGE: Final = "squashfs-tools"


def make(directory: str, path: str) -> None:
    """Write ``path``: owned by root, dated at the epoch, without extended attributes."""
    command = ["mksquashfs", directory, path, "-noappend", "-quiet", "-no-progress", "-reproducible"]
    command += ["-mkfs-time", "0", "-all-time", "0", "-all-root", "-no-xattrs", "-no-exports"]
    command += ["-b", str(recipe.SQUASHFS_BLOCK), "-comp", "zstd"]
    command += ["-Xcompression-level", str(recipe.SQUASHFS_LEVEL)]
    tools.run(command, package=PACKAGE)


def version() -> str:
    """The tool's version: another one may pack the same content differently."""
    match = re.search(r"version ([\w.]+)", tools.run(["mksquashfs", "-version"], package=PACKAGE))
    return match[1] if match else "unknown"
