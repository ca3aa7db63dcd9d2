# SPDX-License-Identifier: Apache-2.0
"""The files a guest is measured by, opened and hashed where they lie."""

from __future__ import annotations

import hashlib
from io import BufferedReader
from typing import Final

from sealpod.errors import NotFoundError

BUILD: Final = "run `sealpod guest build`, or correct the path in the configuration"


def open_file(path: str, what: str, remedy: str = BUILD) -> BufferedReader:
    """``what`` is its part: firmware, kernel, initrd.

    :raise NotFoundError: it cannot be read; code ``guest.missing``.
    """
    try:
        return open(path, "rb")
    except OSError as error:
        raise NotFoundError(
            f"the guest's {what} {path} cannot be read: {error.strerror}", code="guest.missing", remedy=remedy
        ) from error


def hash_file(path: str, what: str, remedy: str = BUILD) -> bytes:
    """SHA-256 of a file, as :func:`open_file` opens it."""
    with open_file(path, what, remedy) as source:
        return hashlib.file_digest(source, "sha256").digest()
