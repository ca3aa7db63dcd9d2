# SPDX-License-Identifier: Apache-2.0
"""What an OVMF image says about itself: the footer table and the SEV metadata (edk2, OvmfPkg/ResetVector).

The table ends 32 bytes before the end of the image and is read backwards. Its last entry is the footer
(GUID 96b582de-..., its length counts the whole table); every entry is ``payload | u16 length | GUID`` with
the length counting all three. All numbers are little-endian::

    GUID       payload                      meaning
    00f771de   u32                          SEV-ES reset address of the second and later vCPUs
    7255371f   u32 base, u32 size           where the hashes table is placed
    4c2eb361   u32 base, u32 size           where the launch secret is placed
    dc886566   u32 distance from the end    SEV metadata: "ASEV" | u32 length | u32 1 | u32 n | n sections
                                            of u32 gpa, u32 size, u32 type

An image without a table is no error: it can be started, but takes neither hashes nor a secret. Older images
have the reset block alone in the footer's place. Of two entries with one GUID the one nearest the end counts,
as for QEMU.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self
from uuid import UUID

from sealpod.errors import DecodeError
from sealpod.measure.hashes import TABLE_SIZE

FOOTER_GUID: Final = UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
HASH_TABLE_GUID: Final = UUID("7255371f-3a3b-4b04-927b-1da6efa8d454")
SECRET_BLOCK_GUID: Final = UUID("4c2eb361-7d9b-4cc3-8081-127c90d3d294")
RESET_BLOCK_GUID: Final = UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
METADATA_GUID: Final = UUID("dc886566-984a-4798-a75e-5585a7bf67cc")

_RESET_VECTOR_SIZE: Final = 32
"""Bytes after the table: jump, reset vector."""
_ENTRY = struct.Struct("<H16s")
_ADDRESS = struct.Struct("<I")
_AREA = struct.Struct("<II")
_METADATA = struct.Struct("<4sIII")
_SECTION = struct.Struct("<III")
_METADATA_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Area:
    """Guest physical memory, in bytes."""

    base: int
    size: int


@dataclass(frozen=True, slots=True)
class Section:
    """One section of the SEV metadata; used by SEV-SNP only. ``kind`` may be a number not known here."""

    gpa: int
    size: int
    kind: int


@dataclass(frozen=True, slots=True)
class Ovmf:
    """The SEV properties of a firmware image."""

    size: int
    """Bytes of the image; it ends at 4 GiB in the guest."""
    hash_table: Area | None
    """Where QEMU puts the hashes table; None when this build cannot check kernel hashes."""
    secret_block: Area | None
    """Where the launch secret goes; None when this build takes none."""
    reset_address: int | None
    """Where SEV-ES starts the second and later vCPUs."""
    sections: tuple[Section, ...]
    """The SEV metadata, in the image's order."""

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> Self:
        """Read the image's footer table; a copy of the image is not kept.

        :raise DecodeError: too short for a firmware, or a table that contradicts itself.
        """
        if len(data) < _RESET_VECTOR_SIZE + _ENTRY.size:
            raise _malformed(f"{len(data)} bytes are no firmware image")
        table = _table(data)
        return cls(
            size=len(data),
            hash_table=_area(table.get(HASH_TABLE_GUID), TABLE_SIZE),
            secret_block=_area(table.get(SECRET_BLOCK_GUID), 1),
            reset_address=_number(table.get(RESET_BLOCK_GUID)),
            sections=_sections(data, _number(table.get(METADATA_GUID))),
        )


def _table(data: bytes | bytearray | memoryview) -> dict[UUID, bytes]:
    end = len(data) - _RESET_VECTOR_SIZE
    length, guid = _entry_before(data, end)
    if guid == RESET_BLOCK_GUID:
        return dict(_walk(data, end - length, end))
    if guid != FOOTER_GUID:
        return {}
    table: dict[UUID, bytes] = {}
    for entry, payload in _walk(data, end - length, end - _ENTRY.size):
        table.setdefault(entry, payload)
    return table


def _walk(data: bytes | bytearray | memoryview, start: int, end: int) -> Iterator[tuple[UUID, bytes]]:
    """Entries between two offsets, last one first."""
    if not 0 <= start <= end:
        raise _malformed("Invalid table size")
    while end - start >= _ENTRY.size:
        length, guid = _entry_before(data, end)
        if not _ENTRY.size <= length <= end - start:
            raise _malformed("Invalid entry size")
        yield guid, bytes(data[end - length : end - _ENTRY.size])
        end -= length


def _entry_before(data: bytes | bytearray | memoryview, end: int) -> tuple[int, UUID]:
    length, guid = _ENTRY.unpack_from(data, end - _ENTRY.size)
    return length, UUID(bytes_le=guid)


def _area(payload: bytes | None, least: int) -> Area | None:
    """An area, or None when the build has left it out (base 0) or it is too small to be used."""
    if payload is None:
        return None
    if len(payload) < _AREA.size:
        raise _malformed("an area entry is too short")
    base, size = _AREA.unpack_from(payload)
    return Area(base, size) if base and size >= least else None


def _number(payload: bytes | None) -> int | None:
    if payload is None:
        return None
    if len(payload) < _ADDRESS.size:
        raise _malformed("an address entry is too short")
    (value,) = _ADDRESS.unpack_from(payload)
    return int(value)


def _sections(data: bytes | bytearray | memoryview, distance: int | None) -> tuple[Section, ...]:
    if distance is None:
        return ()
    start = len(data) - distance
    if start < 0 or distance < _METADATA.size:
        raise _malformed("SEV metadata lies outside the image")
    magic, length, version, count = _METADATA.unpack_from(data, start)
    if magic != b"ASEV":
        raise _malformed("Wrong SEV metadata signature")
    if version != _METADATA_VERSION:
        raise _malformed("Wrong SEV metadata version")
    if not _METADATA.size + count * _SECTION.size <= length <= distance:
        raise _malformed("Wrong SEV metadata length")
    first = start + _METADATA.size
    offsets = range(first, first + count * _SECTION.size, _SECTION.size)
    return tuple(Section(*_SECTION.unpack_from(data, offset)) for offset in offsets)


def _malformed(message: str) -> DecodeError:
    return DecodeError(f"OVMF image: {message}", code="ovmf.malformed")
