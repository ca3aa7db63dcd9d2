# SPDX-License-Identifier: Apache-2.0
"""The files that resources name: read from one directory and from nowhere else.

A resource's path is a column of the database. Whoever writes there decides what is released, but not that
files of the broker's machine are: a path that leads out of the directory, by ``..``, as an absolute one or
through a symbolic link, is refused. Links within the directory are followed, as Kubernetes mounts have them.
"""

from __future__ import annotations

import os
import stat

from sealpod.errors import NotFoundError, OperationError, RefusedError, SealpodError
from sealpod.secret import SecretBytes


class DirectoryFiles:
    """A :class:`~sealpod.kbs.core.ports.ResourceFiles` of one directory; files of ``limit`` bytes at most."""

    def __init__(self, directory: str, *, limit: int) -> None:
        """:raise NotFoundError: there is no such directory."""
        if not os.path.isdir(directory):
            raise NotFoundError(
                f"no directory {directory!r} (resources)",
                code="kbs.file",
                remedy="create it, or correct --resources",
            )
        self._root = directory
        self._limit = limit

    def read(self, path: str) -> SecretBytes:
        """:raise RefusedError: it leads elsewhere or is too large. :raise SealpodError: it cannot be read."""
        # Anew each time: mounts are exchanged while the broker runs.
        root = os.path.realpath(self._root)
        if not path or "\0" in path or os.path.isabs(path):
            raise _outside()
        real = os.path.realpath(os.path.join(root, path))
        if os.path.commonpath((root, real)) != root or real == root:
            raise _outside()
        try:
            return self._read(real)
        except FileNotFoundError:
            raise NotFoundError("No such file or directory", code="resource.file", remedy=_REMEDY) from None
        except OSError as error:
            raise OperationError(
                os.strerror(error.errno or 0), code="resource.file", remedy=_REMEDY
            ) from None

    def _read(self, real: str) -> SecretBytes:
        # Every link was resolved; one that appears now was put there to lead elsewhere. A FIFO would hang.
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise RefusedError("the resource is not a file", code="resource.file", remedy=_REMEDY)
            data = file.read(self._limit + 1)
        if len(data) > self._limit:
            raise _too_large(self._limit)
        return SecretBytes(data)


_REMEDY = "the key owner puts the file into the broker's directory of resources, or corrects its path"


def _outside() -> SealpodError:
    return RefusedError(
        "the resource's path leads out of its directory", code="resource.path", remedy=_REMEDY
    )


def _too_large(limit: int) -> SealpodError:
    return RefusedError(f"the resource has more than {limit} bytes", code="resource.file", remedy=_REMEDY)
