# SPDX-License-Identifier: Apache-2.0
"""Pack a directory into a squashfs whose bytes depend on its content only.

mksquashfs and the compressor come from Debian packages like everything else in the image, and run with
libraries of their own (:mod:`sealpod.guestimage.interpreter`): other versions pack the same content
differently.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable

from sealpod.guestimage import debian, interpreter, recipe


def make(directory: str, path: str, packages: Iterable[debian.Package]) -> None:
    """Write ``path``: owned by root, dated at the epoch, without extended attributes.

    ``packages`` hold the tool and its libraries (:data:`sealpod.guestimage.recipe.PACKER`).
    """
    options = ["-noappend", "-quiet", "-no-progress", "-reproducible", "-mkfs-time", "0", "-all-time", "0"]
    options += ["-all-root", "-no-xattrs", "-no-exports", "-b", str(recipe.SQUASHFS_BLOCK)]
    options += recipe.SQUASHFS_COMPRESSION
    with tempfile.TemporaryDirectory(prefix=".packer.", dir=os.path.dirname(path)) as tools:
        debian.unpack((package for package in packages if package.name in recipe.PACKER), tools)
        interpreter.program(tools, "usr/bin/mksquashfs", directory, path, *options)
