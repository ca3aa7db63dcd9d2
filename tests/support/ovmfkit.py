# SPDX-License-Identifier: Apache-2.0
"""Synthetic firmware images, as the vectors describe them (LEDGER, "measure")."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any
from uuid import UUID

FULL: dict[str, Any] = {
    "size": 65536,
    "sections": [
        [0x800000, 0x9000, 1],
        [0x80A000, 0x3000, 1],
        [0x80D000, 0x1000, 2],
        [0x80E000, 0x1000, 3],
        [0x80F000, 0x1000, 4],
        [0x811000, 0xF000, 1],
        [0x810000, 0x1000, 0x10],
    ],
    "hash_table": [0x810C00, 0x400],
    "secret": [0x810000, 0xC00],
    "reset_eip": 0x80B004,
    "meta_offset_from_end": 0x400,
}
NO_HASH: dict[str, Any] = FULL | {
    "sections": [*FULL["sections"][:4], [0x810000, 0x10000, 1]],
    "hash_table": [0, 0],
    "secret": [0, 0],
}
OLD_STYLE: dict[str, Any] = {
    "size": 4096,
    "sections": None,
    "hash_table": [0x80FC00, 0x400],
    "secret": [0x80F000, 0xC00],
    "reset_eip": 0x12345678,
    "meta_offset_from_end": None,
}
NO_FOOTER = {"size": 8192}


def pattern(size: int, a: int, b: int, c: int) -> bytes:
    return bytes((i * a + (i >> 8) * b + c) & 0xFF for i in range(size))


def entry(guid: str, payload: bytes) -> bytes:
    return payload + struct.pack("<H", len(payload) + 18) + UUID(guid).bytes_le


def footer(entries: Sequence[bytes], length: int | None = None) -> bytes:
    """Entries, first one first, and the footer that counts them (or claims ``length``)."""
    table = b"".join(entries)
    total = len(table) + 18 if length is None else length
    return table + struct.pack("<H", total) + UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le


def with_table(table: bytes, size: int = 4096) -> bytes:
    """A pattern image whose table ends where OVMF's does."""
    data = bytearray(pattern(size, 131, 17, 89))
    data[size - 32 - len(table) : size - 32] = table
    return bytes(data)


def build_image(spec: dict[str, Any]) -> bytes:
    if "hash_table" not in spec:
        return pattern(spec["size"], 131, 17, 89)
    entries = [
        entry("7255371f-3a3b-4b04-927b-1da6efa8d454", struct.pack("<II", *spec["hash_table"])),
        entry("4c2eb361-7d9b-4cc3-8081-127c90d3d294", struct.pack("<II", *spec["secret"])),
        entry("00f771de-1a7e-4fcb-890e-68c77e2fb44e", struct.pack("<I", spec["reset_eip"])),
    ]
    distance = spec["meta_offset_from_end"]
    if distance is not None:
        entries.insert(0, entry("dc886566-984a-4798-a75e-5585a7bf67cc", struct.pack("<I", distance)))
    data = bytearray(with_table(footer(entries), spec["size"]))
    if distance is not None:
        count = len(spec["sections"])
        blob = struct.pack("<4sIII", b"ASEV", 16 + 12 * count, 1, count)
        blob += b"".join(struct.pack("<III", *section) for section in spec["sections"])
        start = spec["size"] - distance
        data[start : start + len(blob)] = blob
    return bytes(data)
