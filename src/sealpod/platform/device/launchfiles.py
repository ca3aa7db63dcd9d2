# SPDX-License-Identifier: Apache-2.0
"""The files QEMU reads an owner's certificate and session from: base64, in a directory of the launch's own.

The directory is 0700, the files are 0600. It is removed with the launch; what a killed process left is
removed when the platform is opened the next time. Whose directory is in use is told by a lock on it.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from typing import Final

from sealpod.errors import OperationError

_PREFIX: Final = "sealpod-launch-"
_ATTEMPTS: Final = 10


class LaunchFiles:
    """The two files, until :meth:`close`."""

    def __init__(self, godh: bytes, session: bytes) -> None:
        """:raise OperationError: the directory for temporary files does not take them."""
        self.directory, self._fd = _locked_directory()
        try:
            self.godh = self._write("godh.b64", godh)
            self.session = self._write("session_file.b64", session)
        except OSError as error:
            self.close()
            raise _unwritable(error) from error

    def close(self) -> None:
        """Remove them. Idempotent."""
        if self._fd >= 0:
            shutil.rmtree(self.directory, ignore_errors=True)
            os.close(self._fd)
            self._fd = -1

    def _write(self, name: str, data: bytes) -> str:
        path = os.path.join(self.directory, name)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as target:
            target.write(base64.b64encode(data))
        return path


def _locked_directory() -> tuple[str, int]:
    """A new directory and the descriptor that holds it."""
    for _ in range(_ATTEMPTS):
        try:
            path = tempfile.mkdtemp(prefix=_PREFIX)
        except OSError as error:
            raise _unwritable(error) from error
        # Before it is locked, another process may take it for one that was left.
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(fd).st_nlink:
                    return path, fd
            os.close(fd)
    raise _unwritable(FileNotFoundError(errno.ENOENT, "it vanishes as soon as it is made"))


def _unwritable(error: OSError) -> OperationError:
    return OperationError(
        f"cannot write the owner's files for QEMU in {tempfile.gettempdir()}: {error.strerror}",
        code="platform.launch-files",
        remedy="make room there, or name another directory with TMPDIR",
    )


def remove_stale() -> None:
    """Remove this user's directories nobody holds any more."""
    parent = tempfile.gettempdir()
    with contextlib.suppress(OSError):
        for entry in os.scandir(parent):
            if entry.name.startswith(_PREFIX):
                with contextlib.suppress(OSError):
                    _remove_if_stale(entry.path)


def _remove_if_stale(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_uid == os.geteuid():
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(fd)
