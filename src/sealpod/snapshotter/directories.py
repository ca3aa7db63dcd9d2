# SPDX-License-Identifier: Apache-2.0
"""The directories below the root, ``snapshots/<number>/fs`` and ``work`` as overlayfs wants them."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import stat
from collections.abc import Iterable
from typing import Final

from sealpod.errors import AccessError, OperationError, UsageError

FORBIDDEN: Final = ":,\\"
"""Characters that end a name among overlayfs' options."""

_logger = logging.getLogger(__name__)


class Directories:
    """One directory for each snapshot that has files, or that something is mounted from."""

    def __init__(self, root: str) -> None:
        self._root = os.path.join(root, "snapshots")
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._root, 0o700)
        check_private(self._root)

    def files(self, number: int) -> str:
        """Where the snapshot's own files are."""
        return os.path.join(self._root, str(number), "fs")

    def work(self, number: int) -> str:
        """overlayfs' own directory beside them."""
        return os.path.join(self._root, str(number), "work")

    def make(self, number: int, *, work: bool, like: str = "") -> None:
        """Directories for a snapshot, durable on return; owned as the directory ``like``."""
        os.makedirs(self.files(number), mode=0o700, exist_ok=True)
        os.chmod(self.files(number), 0o755)  # the root of a container, whatever our umask  # noqa: S103
        if like:
            found = os.stat(like)
            os.chown(self.files(number), found.st_uid, found.st_gid)
        if work:
            os.makedirs(self.work(number), mode=0o711, exist_ok=True)
        _sync(os.path.dirname(self.files(number)))
        _sync(self._root)

    def remove(self, number: int) -> None:
        """Remove what a snapshot had. What resists is tried again at the next start or clean-up."""
        self._remove(str(number))

    def strangers(self, known: Iterable[int]) -> list[str]:
        """Names that are no snapshot's."""
        names = {str(number) for number in known}
        return [name for name in os.listdir(self._root) if name not in names]

    def remove_strangers(self, names: Iterable[str]) -> None:
        """Remove what :meth:`strangers` found."""
        for name in names:
            self._remove(name)

    def _remove(self, name: str) -> None:
        path = os.path.join(self._root, name)
        try:
            if stat.S_ISDIR(os.lstat(path).st_mode):
                shutil.rmtree(path)
            else:
                os.unlink(path)
        except FileNotFoundError:
            return
        except OSError as error:
            _logger.warning("cannot remove %s yet: %s", path, error.strerror)


def check_root(root: str) -> str:
    """The root's absolute path, made if it is missing. AccessError if others may write there."""
    path = os.path.abspath(root)
    if any(char in path for char in FORBIDDEN):
        raise UsageError(
            f"the root {path!r} has a colon, comma or backslash in its name",
            code="snapshotter.root",
            remedy="overlayfs cannot be told of such a path; choose another --root",
        )
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        raise OperationError(f"cannot make {path}: {error.strerror}", code="snapshotter.root") from error
    check_private(path)
    return path


def check_private(path: str) -> None:
    """AccessError unless ``path`` is a directory of ours that nobody else may write to."""
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise AccessError(
            f"{path} is not a directory that only this user may write to",
            code="snapshotter.root",
            remedy=f"chown and chmod it (mode {found.st_mode & 0o7777:o}), or choose another --root",
        )


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
