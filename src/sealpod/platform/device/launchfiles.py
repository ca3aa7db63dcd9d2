# SPDX-License-Identifier: Apache-2.0
"""The files QEMU reads an owner's certificate and session from: base64, in a directory of the launch's own.

The directory is 0700, the files are 0600. It is removed with the launch; what a killed process left is
removed when the platform is opened the next time. Whose directory is in use is told by a lock on it.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import shutil
import tempfile
from typing import Final

_PREFIX: Final = "sealpod-launch-"


class LaunchFiles:
    """The two files, until :meth:`close`."""

    def __init__(self, godh: bytes, session: bytes) -> None:
        self.directory = tempfile.mkdtemp(prefix=_PREFIX)
        self._fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.godh = self._write("godh.b64", godh)
            self.session = self._write("session_file.b64", session)
        except BaseException:
            self.close()
            raise

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
