# SPDX-License-Identifier: Apache-2.0
"""What a directory takes on the disk: bytes of its blocks, and inodes, each counted once."""

from __future__ import annotations

import os
from typing import Final

BLOCK: Final = 512  # bytes that st_blocks counts in, stat(2)


def disk_usage(directory: str) -> tuple[int, int]:
    """Bytes and inodes of the tree, the directory itself included. What vanishes meanwhile does not count."""
    size = 0
    seen: set[tuple[int, int]] = set()
    waiting = [directory]
    while waiting:
        path = waiting.pop()
        try:
            found = os.lstat(path)
            if (found.st_dev, found.st_ino) in seen:
                continue
            seen.add((found.st_dev, found.st_ino))
            size += found.st_blocks * BLOCK
            with os.scandir(path) as entries:
                waiting.extend(entry.path for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            continue
    return size, len(seen)
