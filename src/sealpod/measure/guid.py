# SPDX-License-Identifier: Apache-2.0
"""GUIDs of measured tables, as the 16 bytes that stand there.

EFI writes the first three fields little-endian. The constants of this package are only compared and written,
so they are bytes: importing ``uuid`` costs a tenth of the time ``sealpod measure`` takes.
"""

from __future__ import annotations

from typing import Final

GUID_SIZE: Final = 16
"""Bytes."""


def guid(text: str) -> bytes:
    """The bytes of a GUID of this package, written as hyphenated text.

    >>> guid("00112233-4455-6677-8899-aabbccddeeff").hex()
    '33221100554477668899aabbccddeeff'
    """
    low, middle, high, *rest = (bytes.fromhex(part) for part in text.split("-"))
    return low[::-1] + middle[::-1] + high[::-1] + b"".join(rest)
