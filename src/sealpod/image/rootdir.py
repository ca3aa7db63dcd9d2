# SPDX-License-Identifier: Apache-2.0
"""A directory tree nothing can leave: paths are walked component by component from the root's descriptor.

Every component is opened with ``O_NOFOLLOW``; a symbolic link met on the way is read and its target walked
the same way, an absolute one from this root, ``..`` never above it. That is what openat2's
``RESOLVE_IN_ROOT`` does, which Python does not offer. The last component is the caller's business: it gets
a directory's descriptor and a name.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from sealpod.errors import DecodeError

MAX_LINKS: Final = 40  # symbolic links in one path; Linux's own limit
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Parts = tuple[bytes, ...]


def split(path: bytes) -> Parts:
    """The components of a path inside the root; a leading ``/`` means the root. DecodeError for ``..``."""
    parts = tuple(part for part in path.split(b"/") if part not in (b"", b"."))
    if b".." in parts:
        raise DecodeError(f"the path {show(path)} would leave its directory", code="image.tar-escape")
    return parts


def show(path: bytes) -> str:
    """A path for an error text."""
    return repr(path[:140].decode("utf-8", "backslashreplace"))


class RootDirectory:
    """The tree below ``path``. Close it, or use it in a ``with`` statement."""

    def __init__(self, path: str) -> None:
        self._root = os.open(path, _OPEN)
        self._cached: tuple[Parts, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptors."""
        self.forget()
        os.close(self._root)

    def forget(self) -> None:
        """Drop the remembered directory; needed after removing or replacing a directory or link."""
        if self._cached is not None:
            os.close(self._cached[1])
            self._cached = None

    def directory(self, parts: Parts, created: Callable[[Parts, int], None] | None = None) -> int:
        """A descriptor of the directory at ``parts``, valid until the next call.

        Missing directories are made with mode 0700 if ``created`` is given, which is told each one's path and
        descriptor. FileNotFoundError, NotADirectoryError or OSError otherwise; DecodeError for a link loop.
        """
        if self._cached is None or self._cached[0] != parts:
            descriptor = self._walk(parts, created)
            self.forget()
            self._cached = (parts, descriptor)
        return self._cached[1]

    def _walk(self, parts: Parts, created: Callable[[Parts, int], None] | None) -> int:
        trail = [os.dup(self._root)]
        here: list[bytes] = []  # components of trail[1:]
        todo = list(reversed(parts))
        links = 0
        try:
            while todo:
                name = todo.pop()
                if name == b"..":  # only from a link's target
                    _up(trail, here)
                    continue
                target = self._step(trail, here, name, created)
                if target is None:
                    continue
                links += 1
                if links > MAX_LINKS:
                    raise DecodeError("too many symbolic links in a path", code="image.tar-escape")
                if target.startswith(b"/"):
                    while len(trail) > 1:
                        _up(trail, here)
                todo.extend(part for part in reversed(target.split(b"/")) if part not in (b"", b"."))
            return trail.pop()
        finally:
            for descriptor in trail:
                os.close(descriptor)

    @staticmethod
    def _step(
        trail: list[int], here: list[bytes], name: bytes, created: Callable[[Parts, int], None] | None
    ) -> bytes | None:
        """Enter ``name``; its target instead if it is a symbolic link."""
        parent = trail[-1]
        try:
            descriptor = os.open(name, _OPEN, dir_fd=parent)
        except FileNotFoundError:
            if created is None:
                raise
            os.mkdir(name, 0o700, dir_fd=parent)
            descriptor = os.open(name, _OPEN, dir_fd=parent)
            created((*here, name), descriptor)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            return _target(name, parent)
        trail.append(descriptor)
        here.append(name)
        return None


def _up(trail: list[int], here: list[bytes]) -> None:
    if len(trail) > 1:
        os.close(trail.pop())
        here.pop()


def _target(name: bytes, parent: int) -> bytes:
    try:
        return os.readlink(name, dir_fd=parent)
    except OSError as error:
        if error.errno == errno.EINVAL:  # not a link either
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fsdecode(name)) from error
        raise
