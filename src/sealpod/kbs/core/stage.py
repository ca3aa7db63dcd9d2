# SPDX-License-Identifier: Apache-2.0
"""Which step of a call failed, said as simple-kbs says it: ``<step>: <cause>``.

Clients look for these texts (``Policy validation failed: fw digest not valid``), so the step's words are
part of the interface. Family, code and remedy of the cause are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sealpod.errors import FirmwareError, LaunchError, OperationError, SealpodError

BUNDLE: Final = "Failed to generate launch bundle"
LAUNCH_ID: Final = "Malformed Launch ID"
CLIENT_ID: Final = "Malformed Client ID"
CONNECTION: Final = "Connection not found"
REQUEST: Final = "Bad secret request"
POLICY: Final = "Policy validation failed"
MEASUREMENT: Final = "Measurement Verification Failed"
FULFILL: Final = "Cannot fulfill secret request"
PACKAGE: Final = "Failed to package secret"
ENCRYPT: Final = "Failed to encrypt secret"


@contextmanager
def stage(text: str) -> Iterator[None]:
    """Put ``text``, if it is one, before the message of any :class:`SealpodError` leaving the block."""
    try:
        yield
    except SealpodError as error:
        if not text:
            raise
        raise _prefixed(text, error) from error


def _prefixed(text: str, error: SealpodError) -> SealpodError:
    # These two families carry data the broker's caller has no use for.
    family = OperationError if isinstance(error, FirmwareError | LaunchError) else type(error)
    return family(f"{text}: {error.message}", code=error.code, remedy=error.remedy)
