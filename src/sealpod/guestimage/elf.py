# SPDX-License-Identifier: Apache-2.0
"""Take from a program or library what only linkers and debuggers read.

ELF-64, little-endian (System V gABI, chapter 4 and 5). The system loads segments, which the program headers
name; section headers, symbol tables for debuggers and the like stand behind the last segment and are cut
off. Offsets in the file header: program headers 32, section headers 40, header size 52, entry size and
count of program headers 54 and 56, of section headers 58 and 60, index of section names 62. In a program
header of 56 bytes: offset in the file 8, size in the file 32.
"""

from __future__ import annotations

import struct
from typing import Final

from sealpod.errors import DecodeError

MAGIC: Final = b"\x7fELF\x02\x01"
HEADER_SIZE: Final = 64
SEGMENT_SIZE: Final = 56

_U64 = struct.Struct("<Q")
_COUNTS = struct.Struct("<HH")


def is_elf(data: bytes) -> bool:
    """Whether the file begins like a 64-bit little-endian ELF file."""
    return data.startswith(MAGIC)


def segments_only(data: bytes) -> bytes:
    """The file without section headers and what follows the last segment; :class:`DecodeError` if
    malformed."""
    if not is_elf(data) or len(data) < HEADER_SIZE:
        raise DecodeError("not a 64-bit little-endian ELF file")
    (table,) = _U64.unpack_from(data, 32)
    size, count = _COUNTS.unpack_from(data, 54)
    end = table + size * count
    if size != SEGMENT_SIZE or not count or end > len(data):
        raise DecodeError("an ELF file without usable program headers")
    for header in range(table, end, size):
        end = max(end, _U64.unpack_from(data, header + 8)[0] + _U64.unpack_from(data, header + 32)[0])
    if end > len(data):
        raise DecodeError("an ELF file ends before its last segment")
    # No section headers: offset, count and index of names are 0; the entry size stays as the ABI has it.
    return b"".join((data[:40], bytes(8), data[48:60], bytes(4), data[64:end]))
