# SPDX-License-Identifier: Apache-2.0
"""Secret values on their way in: from a file or standard input, or as base64 in a request."""

from __future__ import annotations

import os
import sys
from base64 import b64decode
from typing import Final

from sealpod.errors import AccessError, NotFoundError, OperationError, UsageError
from sealpod.secret import SecretBytes

READ_LIMIT: Final = 64 * 1024
"""Bytes read of a secret's file: more than any secret, less than a mistaken device or disk image."""


def read_secret_file(path: str) -> SecretBytes:
    """What a file, or standard input for ``-``, holds. :raise SealpodError: it cannot be read."""
    try:
        if path == "-":
            return SecretBytes(sys.stdin.buffer.read(READ_LIMIT + 1))
        with open(path, "rb") as file:
            return SecretBytes(file.read(READ_LIMIT + 1))
    except FileNotFoundError:
        raise NotFoundError(f"no file {path!r}", code="secret.file") from None
    except PermissionError:
        raise AccessError(f"no permission to read {path!r}", code="secret.file") from None
    except OSError as error:
        raise OperationError(
            f"cannot read {path!r}: {os.strerror(error.errno or 0)}", code="secret.file"
        ) from error


def secret_value(given: str | SecretBytes) -> SecretBytes:
    """A value of a body. :raise UsageError: ``admin.body``: it is not base64."""
    if isinstance(given, SecretBytes):
        return given
    try:
        return SecretBytes(b64decode(given, validate=True))
    except ValueError:
        # The decoder's words may quote what it read.
        raise UsageError("a value is not base64", code="admin.body") from None
