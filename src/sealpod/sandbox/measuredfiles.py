# SPDX-License-Identifier: Apache-2.0
"""The files a guest is measured by, opened and hashed where they lie."""

from __future__ import annotations

import hashlib
import os
import stat
from io import BufferedReader
from typing import Final

from sealpod.errors import NotFoundError, UsageError

BUILD: Final = "run `sealpod guest build`, or correct the path in the configuration"


def open_file(path: str, what: str, remedy: str = BUILD) -> BufferedReader:
    """``what`` is its part: firmware, kernel, initrd.

    :raise NotFoundError: it cannot be read; code ``guest.missing``.
    :raise UsageError: it is no regular file; code ``guest.not-a-file``.
    """

    def regular(path: str, flags: int) -> int:
        """Open, without waiting for a pipe's writer; a device would have no end."""
        descriptor = os.open(path, flags | os.O_NONBLOCK)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        raise UsageError(
            f"the guest's {what} {path} is no regular file", code="guest.not-a-file", remedy=remedy
        )

    try:
        return open(path, "rb", opener=regular)
    except OSError as error:
        raise NotFoundError(
            f"the guest's {what} {path} cannot be read: {error.strerror}", code="guest.missing", remedy=remedy
        ) from error


def hash_file(path: str, what: str, remedy: str = BUILD) -> bytes:
    """SHA-256 of a file, as :func:`open_file` opens it."""
    with open_file(path, what, remedy) as source:
        return hashlib.file_digest(source, "sha256").digest()
