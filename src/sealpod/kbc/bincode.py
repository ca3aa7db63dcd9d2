# SPDX-License-Identifier: Apache-2.0
"""The one bincode (1.x, fixed-width integers) value the key broker sends: a map from text to bytes.

::

    LE64 count, then per entry  LE64 length, UTF-8 text, LE64 length, bytes

Nothing may follow the last entry, no key may stand twice.
"""

from __future__ import annotations

import struct
from typing import Final

from sealpod.errors import DecodeError

MAX_ENTRIES: Final = 64
"""One per secret requested; this client asks for one at a time."""

_U64 = struct.Struct("<Q")


def decode_map(data: bytes) -> dict[str, bytes]:
    """The map in ``data``; :class:`DecodeError` (``kbc.payload``) for anything else."""
    count, position = _number(data, 0)
    if count > MAX_ENTRIES:
        raise _malformed(f"claims {count} entries, more than {MAX_ENTRIES}")
    found: dict[str, bytes] = {}
    for _ in range(count):
        raw, position = _counted(data, position)
        try:
            key = raw.decode()
        except UnicodeDecodeError:
            raise _malformed("holds a key that is not UTF-8") from None
        if key in found:
            raise _malformed("holds a key twice")
        found[key], position = _counted(data, position)
    if position != len(data):
        raise _malformed("goes on after its last entry")
    return found


def _number(data: bytes, position: int) -> tuple[int, int]:
    if len(data) - position < _U64.size:
        raise _malformed("ends inside a number")
    return _U64.unpack_from(data, position)[0], position + _U64.size


def _counted(data: bytes, position: int) -> tuple[bytes, int]:
    size, position = _number(data, position)
    if size > len(data) - position:
        raise _malformed("ends inside an entry")
    return data[position : position + size], position + size


def _malformed(what: str) -> DecodeError:
    return DecodeError(f"the key broker's payload {what}", code="kbc.payload")
