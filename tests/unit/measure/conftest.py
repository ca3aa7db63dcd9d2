# SPDX-License-Identifier: Apache-2.0
"""Synthetic firmware images and files, as the vectors describe them (LEDGER, "measure")."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ovmfkit import FULL, NO_FOOTER, NO_HASH, OLD_STYLE, build_image, entry, footer, pattern, with_table

SVSM_SECTIONS = [[0, 16384, 1], [0x9E000, 4096, 2], [0x9F000, 4096, 3]]


def build_svsm(entry_offset: int | None = 0x123, sections: Sequence[Sequence[int]] = SVSM_SECTIONS) -> bytes:
    """An SVSM image of 12 KiB."""
    size, distance = 12288, 0x400
    entries = [entry("dc886566-984a-4798-a75e-5585a7bf67cc", struct.pack("<I", distance))]
    if entry_offset is not None:
        entries.append(entry("a789a612-0597-4c4b-a49f-cbb1fe9d1ddd", struct.pack("<I", entry_offset)))
    data = bytearray(with_table(footer(entries), size))
    blob = struct.pack("<4sIII", b"ASEV", 16 + 12 * len(sections), 1, len(sections))
    blob += b"".join(struct.pack("<III", *section) for section in sections)
    data[size - distance : size - distance + len(blob)] = blob
    return bytes(data)


@pytest.fixture(scope="session")
def svsm_image() -> bytes:
    return build_svsm()


@pytest.fixture(scope="session")
def make_svsm() -> Callable[..., bytes]:
    return build_svsm


@pytest.fixture(scope="session")
def make_image() -> Callable[..., bytes]:
    """``make_image(sections=..., hash_table=...)``: the full image with these changed."""

    def make(**changes: Any) -> bytes:
        return build_image(FULL | changes)

    return make


@pytest.fixture(scope="session")
def images() -> dict[str, bytes]:
    return {
        "ovmf_full_64k": build_image(FULL),
        "ovmf_nohash_64k": build_image(NO_HASH),
        "ovmf_oldstyle_4k": build_image(OLD_STYLE),
        "ovmf_nofooter_8k": build_image(NO_FOOTER),
        "ovmf_nosvsm_64k": build_image(FULL | {"sections": [s for s in FULL["sections"] if s[2] != 4]}),
    }


@pytest.fixture(scope="session")
def blobs() -> dict[str, bytes]:
    return {
        "kernel_12345": pattern(12345, 167, 0, 13),
        "initrd_54321": pattern(54321, 29, 3, 5),
        "empty": b"",
    }


@pytest.fixture(scope="session")
def table_image() -> Callable[..., bytes]:
    """``table_image([(guid, payload), ...], length=None)``: a 4 KiB image with this footer table."""

    def make(entries: Sequence[tuple[str, bytes]], length: int | None = None) -> bytes:
        return with_table(footer([entry(*each) for each in entries], length))

    return make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Vectors and the real firmware image, when they lie beside the repository."""
    directory = Path(__file__).resolve().parents[4] / "shared" / "data"
    if not (directory / "measure-vectors.json").is_file():
        pytest.skip("the measurement vectors are not there (../shared/data/measure-vectors.json)")
    return directory
