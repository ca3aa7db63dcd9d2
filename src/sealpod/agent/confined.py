# SPDX-License-Identifier: Apache-2.0
"""Paths the host names, kept below the directories meant for them.

What lies there may belong to a container, which can put a symbolic link wherever it may write. So a path is
never used twice: it is opened once, by ``openat2`` with the kernel's own confinement, and from then on the
descriptor is what is mounted, written or changed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from sealpod.agent import syscalls
from sealpod.errors import UsageError

MAX_PATH: Final = 4095
"""Bytes of a path on Linux, without its final zero."""
CODE: Final = "sandbox.path"
DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY


def split(path: str, roots: Sequence[str]) -> tuple[str, str]:
    """The root ``path`` lies below, and the rest. Raises :class:`UsageError` (``sandbox.path``)."""
    parts = path.split("/")
    if "\0" not in path and ".." not in parts and len(os.fsencode(path)) <= MAX_PATH:
        clean = "/" + "/".join(part for part in parts if part not in ("", "."))
        for root in roots:
            if clean.startswith(f"{root}/") and path.startswith("/"):
                return root, clean[len(root) + 1 :]
    places = " or ".join(roots)
    raise UsageError(f"the path {path[:140]!r} does not lie below {places}", code=CODE)


def open_source(path: str, roots: Sequence[str]) -> int:
    """A descriptor (O_PATH) of a file or directory; links may lead elsewhere below its root."""
    root, rest = split(path, roots)
    try:
        return _open(root, rest, os.O_PATH, links=True)
    except OSError as exc:
        raise UsageError(f"{path!r} cannot be used: {exc.strerror}", code=CODE) from exc


def open_directory(path: str, roots: Sequence[str], *, mode: int = 0o755) -> int:
    """A descriptor of the directory at ``path``, made with ``mode`` if it is missing, parents too.

    No component may be a link.
    """
    root, rest = split(path, roots)
    os.makedirs(root, mode=0o755, exist_ok=True)
    here = os.open(root, DIRECTORY | os.O_CLOEXEC)
    try:
        for name in rest.split("/"):
            here = _enter(here, name, mode)
        return here
    except OSError as exc:
        os.close(here)
        raise UsageError(f"there can be no directory {path!r}: {exc.strerror}", code=CODE) from exc


def _enter(parent: int, name: str, mode: int) -> int:
    """The descriptor of ``name`` in ``parent``, which is closed if that works."""
    flags = DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        child = os.open(name, flags, dir_fd=parent)
    except FileNotFoundError:
        os.mkdir(name, 0o700, dir_fd=parent)
        child = os.open(name, flags, dir_fd=parent)
        os.fchmod(child, mode)
    os.close(parent)
    return child


def _open(root: str, rest: str, flags: int, *, links: bool) -> int:
    directory = os.open(root, DIRECTORY | os.O_CLOEXEC)
    try:
        return syscalls.open_below(directory, rest, flags, links=links)
    finally:
        os.close(directory)
