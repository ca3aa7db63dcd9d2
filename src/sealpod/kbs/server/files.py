# SPDX-License-Identifier: Apache-2.0
"""Files of the operator: read with a bound, private ones only if they are, and again when they change."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from threading import Lock
from typing import Final, Generic, TypeVar

from sealpod.errors import AccessError, NotFoundError, OperationError, SealpodError
from sealpod.kbs.server.filemode import effective_mode

MAX_FILE: Final = 1 << 20
"""Bytes read of a configuration file; certificates and tokens have some thousand."""

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)

Stamp = tuple[int, int, int, int]


def read_file(path: str, what: str) -> bytes:
    """The bytes of a file of the operator.

    :raise NotFoundError, AccessError, OperationError: it cannot be read, or is too large.
    """
    return _read(path, what, private=False)


def read_private(path: str, what: str) -> bytes:
    """As :func:`read_file`, for a file that nobody else may read.

    A file of root's that a group of this process may read passes too: Kubernetes mounts secrets so. So does
    one whose access control list names this process's user: systemd hands over credentials so.

    :raise AccessError: others can read or change it.
    """
    return _read(path, what, private=True)


def _read(path: str, what: str, *, private: bool) -> bytes:
    try:
        with open(path, "rb") as file:
            if private:
                _check_private(file.fileno(), path, what)
            data = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        raise NotFoundError(f"no file {path!r} ({what})", code="kbs.file") from None
    except PermissionError:
        raise AccessError(f"no permission to read {path!r} ({what})", code="kbs.file") from None
    except OSError as error:
        raise OperationError(
            f"cannot read {path!r} ({what}): {os.strerror(error.errno or 0)}", code="kbs.file"
        ) from None
    if len(data) > MAX_FILE:
        raise OperationError(f"{path!r} is too large ({what})", code="kbs.file")
    return data


def _check_private(descriptor: int, path: str, what: str) -> None:
    found, mode = os.fstat(descriptor), effective_mode(descriptor)
    lent = found.st_uid == 0 and found.st_gid in {os.getegid(), *os.getgroups()}
    allowed = 0o740 if lent else 0o700
    if stat.S_ISREG(found.st_mode) and mode & ~allowed & 0o777:
        raise AccessError(
            f"{path!r} ({what}) can be read or changed by others (mode {mode:04o})",
            code="kbs.file-mode",
            remedy="make it the key broker's alone: chmod 600",
        )


class Watched(Generic[_T]):
    """What some files say, read again when one of them changes.

    A change that cannot be read is logged once and the last good value stays: a broker goes on with the
    certificate or policy it had rather than with none.
    """

    def __init__(self, paths: tuple[str, ...], read: Callable[[], _T]) -> None:
        self._paths = paths
        self._read = read
        self._lock = Lock()
        self._stamps = self._look()
        self._value = read()

    def get(self) -> _T:
        """The value as of now."""
        stamps = self._look()
        with self._lock:
            if stamps != self._stamps:
                self._stamps = stamps
                self._refresh()
            return self._value

    def reload(self) -> None:
        """Read again, changed or not."""
        with self._lock:
            self._stamps = self._look()
            self._refresh()

    def _refresh(self) -> None:
        try:
            self._value = self._read()
            _logger.info("read again: %s", ", ".join(self._paths))
        except SealpodError as error:
            _logger.error("kept what was read before: %s", error.one_line())

    def _look(self) -> tuple[Stamp | None, ...]:
        return tuple(_stamp(path) for path in self._paths)


def _stamp(path: str) -> Stamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
