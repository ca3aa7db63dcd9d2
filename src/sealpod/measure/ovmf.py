# SPDX-License-Identifier: Apache-2.0
"""What a firmware image says about itself: the footer table and the SEV metadata (edk2, OvmfPkg/ResetVector).

The table ends 32 bytes before the end of the image and is read backwards. Its last entry is the footer
(GUID 96b582de-..., its length counts the whole table); every entry is ``payload | u16 length | GUID`` with
the length counting all three. All numbers are little-endian::

    GUID       payload                      meaning
    00f771de   u32                          SEV-ES reset address of the second and later vCPUs
    7255371f   u32 base, u32 size           where the hashes table is placed
    4c2eb361   u32 base, u32 size           where the launch secret is placed
    dc886566   u32 distance from the end    SEV metadata: "ASEV" | u32 length | u32 1 | u32 n | n sections
                                            of u32 gpa, u32 size, u32 type
    a789a612   u32 offset                   in an SVSM image: where its vCPUs start

An image without a table is no error: it can be started, but takes neither hashes nor a secret. Older images
have the reset block alone in the footer's place. Of two entries with one GUID the one nearest the end counts,
as for QEMU.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, Self

from sealpod.errors import DecodeError, OperationError
from sealpod.measure.guid import guid
from sealpod.measure.hashes import TABLE_SIZE
from sealpod.record import Record

FOOTER_GUID: Final = guid("96b582de-1fb2-45f7-baea-a366c55a082d")
HASH_TABLE_GUID: Final = guid("7255371f-3a3b-4b04-927b-1da6efa8d454")
SECRET_BLOCK_GUID: Final = guid("4c2eb361-7d9b-4cc3-8081-127c90d3d294")
RESET_BLOCK_GUID: Final = guid("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
METADATA_GUID: Final = guid("dc886566-984a-4798-a75e-5585a7bf67cc")
SVSM_INFO_GUID: Final = guid("a789a612-0597-4c4b-a49f-cbb1fe9d1ddd")

_RESET_VECTOR_SIZE: Final = 32
"""Bytes after the table: jump, reset vector."""
_ENTRY = struct.Struct("<H16s")
_ADDRESS = struct.Struct("<I")
_AREA = struct.Struct("<II")
_METADATA = struct.Struct("<4sIII")
_SECTION = struct.Struct("<III")
_METADATA_VERSION: Final = 1

Bytes = bytes | bytearray | memoryview


class Area(Record):
    """Guest physical memory, in bytes."""

    base: int
    size: int


class Section(Record):
    """One section of the SEV metadata; used by SEV-SNP only. ``kind`` may be a number not known here."""

    gpa: int
    size: int
    kind: int


class Ovmf(Record):
    """The SEV properties of a firmware image."""

    size: int
    """Bytes of the image; a firmware ends at 4 GiB in the guest."""
    hash_table: Area | None
    """Where QEMU puts the hashes table; None when this build cannot check kernel hashes."""
    secret_block: Area | None
    """Where the launch secret goes; None when this build takes none."""
    reset_address: int | None
    """Where SEV-ES starts the second and later vCPUs; see :attr:`reset_eip`."""
    sections: tuple[Section, ...]
    """The SEV metadata, in the image's order."""
    table_base: int | None = None
    """The hashes table's address as the image has it, usable or not; None without such an entry."""
    svsm_entry: int | None = None
    """In an SVSM image, where its vCPUs start, from the image's first byte."""

    @classmethod
    def parse(cls, data: Bytes, what: str = "OVMF") -> Self:
        """Read the image's footer table; a copy of the image is not kept.

        :raise DecodeError: too short for a firmware, or a table that contradicts itself.
        """
        try:
            return cls._parse(data)
        except _Malformed as error:
            raise DecodeError(f"{what} image: {error}", code="ovmf.malformed") from None

    @classmethod
    def _parse(cls, data: Bytes) -> Self:
        if len(data) < _RESET_VECTOR_SIZE + _ENTRY.size:
            raise _Malformed(f"{len(data)} bytes are no firmware image")
        table = _table(data)
        hashes = _area(table.get(HASH_TABLE_GUID))
        return cls(
            size=len(data),
            hash_table=_usable(hashes, TABLE_SIZE),
            secret_block=_usable(_area(table.get(SECRET_BLOCK_GUID)), 1),
            reset_address=_number(table.get(RESET_BLOCK_GUID)),
            sections=_sections(data, _number(table.get(METADATA_GUID))),
            table_base=None if hashes is None else hashes.base,
            svsm_entry=_number(table.get(SVSM_INFO_GUID)),
        )

    @property
    def reset_eip(self) -> int:
        """Where SEV-ES and SEV-SNP start the second and later vCPUs; 0 says that it starts none.

        :raise OperationError: the image does not say.
        """
        if self.reset_address is None:
            raise OperationError(
                "Can't find SEV_ES_RESET_BLOCK_GUID entry in OVMF table",
                code="measure.no-reset-block",
                remedy="use a build of OVMF for SEV-ES, as the AmdSev one",
            )
        return self.reset_address


class _Malformed(Exception):
    """What is wrong with an image."""


def _table(data: Bytes) -> dict[bytes, bytes]:
    end = len(data) - _RESET_VECTOR_SIZE
    length, name = _entry_before(data, end)
    if name == RESET_BLOCK_GUID:
        return dict(_walk(data, end - length, end))
    # A length that does not even count the footer means no table, to QEMU too.
    if name != FOOTER_GUID or length < _ENTRY.size:
        return {}
    table: dict[bytes, bytes] = {}
    for entry, payload in _walk(data, end - length, end - _ENTRY.size):
        table.setdefault(entry, payload)
    return table


def _walk(data: Bytes, start: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    """Entries between two offsets, last one first."""
    if start < 0:
        raise _Malformed("Invalid table size")
    while end - start >= _ENTRY.size:
        length, name = _entry_before(data, end)
        if not _ENTRY.size <= length <= end - start:
            raise _Malformed("Invalid entry size")
        yield name, bytes(data[end - length : end - _ENTRY.size])
        end -= length


def _entry_before(data: Bytes, end: int) -> tuple[int, bytes]:
    length, name = _ENTRY.unpack_from(data, end - _ENTRY.size)
    return length, name


def _area(payload: bytes | None) -> Area | None:
    if payload is None:
        return None
    if len(payload) < _AREA.size:
        raise _Malformed("an area entry is too short")
    return Area(*_AREA.unpack_from(payload))


def _usable(area: Area | None, least: int) -> Area | None:
    """An area, or None when the build has left it out (base 0) or it is too small to be used."""
    return area if area is not None and area.base and area.size >= least else None


def _number(payload: bytes | None) -> int | None:
    if payload is None:
        return None
    if len(payload) < _ADDRESS.size:
        raise _Malformed("an address entry is too short")
    (value,) = _ADDRESS.unpack_from(payload)
    return int(value)


def _sections(data: Bytes, distance: int | None) -> tuple[Section, ...]:
    if distance is None:
        return ()
    start = len(data) - distance
    if start < 0 or distance < _METADATA.size:
        raise _Malformed("SEV metadata lies outside the image")
    magic, length, version, count = _METADATA.unpack_from(data, start)
    if magic != b"ASEV":
        raise _Malformed("Wrong SEV metadata signature")
    if version != _METADATA_VERSION:
        raise _Malformed("Wrong SEV metadata version")
    if not _METADATA.size + count * _SECTION.size <= length <= distance:
        raise _Malformed("Wrong SEV metadata length")
    first = start + _METADATA.size
    offsets = range(first, first + count * _SECTION.size, _SECTION.size)
    return tuple(Section(*_SECTION.unpack_from(data, offset)) for offset in offsets)
