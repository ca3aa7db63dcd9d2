# SPDX-License-Identifier: Apache-2.0
"""The address: a unix socket only this user may open, in a directory nobody else may put one into."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from typing import Final

from sealpod.errors import AccessError, ConflictError, OperationError, UsageError

CODE: Final = "snapshotter.address"
MAX_ADDRESS: Final = 107
"""Bytes of a socket's path, unix(7), without the final zero."""


def make_room(address: str) -> None:
    """Make the socket's directory, and remove a socket nobody answers on.

    :raise AccessError: others could put their own socket there. :raise ConflictError: it is in use.
    """
    if not os.path.isabs(address) or len(os.fsencode(address)) > MAX_ADDRESS:
        raise UsageError(f"not an absolute path of at most {MAX_ADDRESS} bytes: {address}", code=CODE)
    _check_directory(os.path.dirname(address))
    try:
        found = os.lstat(address)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise AccessError(
            f"{address} exists and is not a socket of this user",
            code=CODE,
            remedy="remove it, or choose another",
        )
    if _answers(address):
        raise ConflictError(
            f"somebody answers on {address}", code=CODE, remedy="end it, or choose another --address"
        )
    os.unlink(address)


def remove(address: str, identity: tuple[int, int]) -> None:
    """Remove the socket unless another one has taken its place."""
    with contextlib.suppress(FileNotFoundError):
        if identify(address) == identity:
            os.unlink(address)


def identify(address: str) -> tuple[int, int]:
    """Which file it is."""
    found = os.lstat(address)
    return found.st_dev, found.st_ino


def _check_directory(directory: str) -> None:
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        found = os.stat(directory)
    except OSError as error:
        raise OperationError(f"cannot make {directory}: {error.strerror}", code=CODE) from error
    shared = bool(found.st_mode & 0o022) and not found.st_mode & stat.S_ISVTX
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (0, os.geteuid()) or shared:
        raise AccessError(
            f"others may replace files in {directory}",
            code=CODE,
            remedy="choose an --address in a directory of yours",
        )


def _answers(address: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(address)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # too busy to answer is not gone
    return True
