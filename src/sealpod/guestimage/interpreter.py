# SPDX-License-Identifier: Apache-2.0
"""Run programs of the guest's root on this machine, with the root's own loader and libraries.

No chroot and no root rights: the dynamic loader is started by hand and told where the libraries are
(ld.so(8)). So the byte code in the image is made by the very interpreter that will read it, whatever Python
runs sealpod.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from sealpod.errors import OperationError
from sealpod.guestimage import tools
from sealpod.guestimage.recipe import LIBRARY_DIRECTORIES, PYTHON

COMPILER: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "compiletree.py")
LOADER: Final = "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"


def _loader(root: str) -> list[str]:
    paths = ":".join(os.path.join(root, directory) for directory in LIBRARY_DIRECTORIES)
    return [os.path.join(root, LOADER), "--inhibit-cache", "--library-path", paths]


def python(root: str, *arguments: str, search: Iterable[str] = ()) -> str:
    """Run the guest's Python; ``search`` are directories to import from. Returns its standard output."""
    extra = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": ":".join(search)}
    command = [*_loader(root), os.path.join(root, "usr/bin", PYTHON), "-S", "-s", *arguments]
    return tools.run(command, cwd=root, extra=extra)


def program(root: str, path: str, *arguments: str) -> str:
    """Run another program of the root; ``path`` is relative to it. Returns its standard output."""
    return tools.run([*_loader(root), os.path.join(root, path), *arguments], cwd=root)


def compile_tree(root: str, directory: str, prefix: str) -> None:
    """Turn the sources below ``directory`` into byte code; in the guest it will be called ``prefix``."""
    python(root, COMPILER, directory, prefix)


def libraries(root: str, binary: str) -> tuple[str, ...]:
    """Paths relative to ``root`` of the shared libraries ``binary`` loads at start, the loader included.

    Raises :class:`OperationError` (``guest.library``) when one is not in the root.
    """
    found = []
    for line in tools.run([*_loader(root), "--list", binary]).splitlines():
        name, _, target = line.strip().partition(" => ")
        path = (target or name).partition(" (")[0]
        if path.startswith("linux-vdso") or path == "statically linked":  # an extension that needs no library
            continue
        if not path.startswith(root + "/"):
            raise OperationError(
                f"{os.path.relpath(binary, root)} needs {name}, which is not in the guest's root",
                code="guest.library",
            )
        found.append(os.path.relpath(path, root))
    return tuple(found)
