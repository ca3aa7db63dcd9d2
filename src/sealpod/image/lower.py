# SPDX-License-Identifier: Apache-2.0
"""What the layers below show at a path, without mounting them: overlay's lookup, for directories only.

Needed for a directory that a layer's archive implies but does not list: made with a default owner and mode
it would cover the real one (``/tmp`` would lose its 1777).
"""

from __future__ import annotations

import os
import stat
from types import TracebackType
from typing import Final, Self

from sealpod.image.rootdir import Parts

_PATH: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPAQUE: Final = b"trusted.overlay.opaque"


class LowerLayers:
    """The directories of lower layers, topmost first."""

    def __init__(self, directories: tuple[str, ...]) -> None:
        self._roots: list[int] = []
        try:
            for directory in directories:
                self._roots.append(os.open(directory, _PATH))
        except OSError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptors."""
        while self._roots:
            os.close(self._roots.pop())

    def directory(self, parts: Parts) -> os.stat_result | None:
        """The topmost visible directory at ``parts``; None if there is none, or something else hides it."""
        for root in self._roots:
            found, hides = _look(root, parts)
            if found is not None or hides:
                return found
        return None


def _look(root: int, parts: Parts) -> tuple[os.stat_result | None, bool]:
    """What one layer has at ``parts``, and whether it hides the layers below it there."""
    current = os.dup(root)
    opaque = False
    try:
        for name in parts:
            try:
                found = os.stat(name, dir_fd=current, follow_symlinks=False)
            except FileNotFoundError:
                return None, opaque
            if not stat.S_ISDIR(found.st_mode):
                return None, True
            following = os.open(name, _PATH, dir_fd=current)
            os.close(current)
            current = following
            opaque = opaque or _is_opaque(current)
        return os.fstat(current), True
    finally:
        os.close(current)


def _is_opaque(directory: int) -> bool:
    try:
        return os.getxattr(directory, _OPAQUE) == b"y"
    except OSError:  # no such attribute, or none at all on this file system
        return False
