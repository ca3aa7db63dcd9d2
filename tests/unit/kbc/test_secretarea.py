# SPDX-License-Identifier: Apache-2.0
"""Finding the launch secret: parsing, the two ways to it, and that it can be had once."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import AccessError, DecodeError, NotFoundError
from sealpod.kbc import secretarea
from sealpod.kbc.devmem import DevMem
from sealpod.kbc.secretarea import Places, take_secret
from sealpod.wire import secrettable
from sealpod.wire.secrettable import OFFLINE_BUNDLE_GUID, ONLINE_CONNECTION_GUID

TABLE_ADDRESS = 0x7F010  # not on a page boundary
LOCATION_ADDRESS = 0x7FFF8  # its two words lie on two pages
AREA_ADDRESS = 0x10C00
AREA_SIZE = 0xC00
OTHER = UUID("8868e871-e4f1-11d3-bc22-0080c73c8881")


def make_memory(path: Path, area: bytes, entries: list[tuple[UUID, int]] | None = None) -> Path:
    """A file that looks like physical memory of 1 MiB."""
    memory = bytearray(1 << 20)
    if entries is None:
        entries = [(OTHER, 0x1234), (secretarea.SECRET_AREA_GUID, LOCATION_ADDRESS)]
    for number, (guid, address) in enumerate(entries):
        struct.pack_into("<16sQ", memory, TABLE_ADDRESS + 24 * number, guid.bytes_le, address)
    struct.pack_into("<QQ", memory, LOCATION_ADDRESS, AREA_ADDRESS, AREA_SIZE)
    memory[AREA_ADDRESS - 1] = memory[AREA_ADDRESS + AREA_SIZE] = 0xAA
    memory[AREA_ADDRESS : AREA_ADDRESS + len(area)] = area
    path.write_bytes(memory)
    return path


@pytest.fixture
def places(tmp_path: Path) -> Places:
    table = tmp_path / "config_table"
    table.write_text(f"{TABLE_ADDRESS:#x}\n")
    return Places(str(tmp_path / "coco"), str(table), str(tmp_path / "mem"))


def test_from_memory_once(places: Places) -> None:
    area = secrettable.encode([(OFFLINE_BUNDLE_GUID, b'{"k":"djE="}'), (ONLINE_CONNECTION_GUID, b"{}")])
    memory = make_memory(Path(places.memory), area)
    assert take_secret(OFFLINE_BUNDLE_GUID, places).reveal() == b'{"k":"djE="}'
    left = memory.read_bytes()
    assert left[AREA_ADDRESS : AREA_ADDRESS + AREA_SIZE] == bytes(AREA_SIZE)
    assert (left[AREA_ADDRESS - 1], left[AREA_ADDRESS + AREA_SIZE]) == (0xAA, 0xAA)
    with pytest.raises(NotFoundError) as caught:
        take_secret(OFFLINE_BUNDLE_GUID, places)
    assert caught.value.code == "kbc.no-secret"


def test_the_area_is_wiped_even_when_it_is_malformed(places: Places) -> None:
    area = bytearray(secrettable.encode([(OFFLINE_BUNDLE_GUID, b"planted")]))
    area[36] = 0xFF  # length of the entry
    memory = make_memory(Path(places.memory), bytes(area))
    with pytest.raises(DecodeError):
        take_secret(OFFLINE_BUNDLE_GUID, places)
    assert b"planted" not in memory.read_bytes()


def test_another_entry_is_not_ours(places: Places) -> None:
    make_memory(Path(places.memory), secrettable.encode([(ONLINE_CONNECTION_GUID, b"{}")]))
    with pytest.raises(NotFoundError, match=str(OFFLINE_BUNDLE_GUID)):
        take_secret(OFFLINE_BUNDLE_GUID, places)


def test_without_efi_or_area(places: Places) -> None:
    make_memory(Path(places.memory), b"", [(OTHER, 1)])
    with pytest.raises(NotFoundError, match="no secret area"):
        take_secret(OFFLINE_BUNDLE_GUID, places)
    os.unlink(places.config_table)
    with pytest.raises(NotFoundError, match="EFI"):
        take_secret(OFFLINE_BUNDLE_GUID, places)


def test_unreadable_memory_is_an_access_error(places: Places) -> None:
    with pytest.raises(AccessError) as caught:
        take_secret(OFFLINE_BUNDLE_GUID, places)
    assert caught.value.code == "kbc.memory"
    Path(places.memory).write_bytes(bytes(16))  # memory that ends before the table
    with pytest.raises(AccessError):
        take_secret(OFFLINE_BUNDLE_GUID, places)


def test_securityfs_comes_first_and_is_unlinked(places: Places) -> None:
    make_memory(Path(places.memory), secrettable.encode([(OFFLINE_BUNDLE_GUID, b"from memory")]))
    os.mkdir(places.coco)
    file = Path(places.coco) / str(OFFLINE_BUNDLE_GUID)
    file.write_bytes(b"from the kernel")
    assert take_secret(OFFLINE_BUNDLE_GUID, places).reveal() == b"from the kernel"
    assert not file.exists()
    assert take_secret(OFFLINE_BUNDLE_GUID, places).reveal() == b"from memory"


def test_memory_without_mapping_is_read_plainly(tmp_path: Path) -> None:
    """A file that ends inside a page can be mapped only up to its end; a device may refuse mapping."""
    path = tmp_path / "mem"
    path.write_bytes(bytes(range(256)))
    memory = DevMem(str(path))
    assert memory.read(16, 4) == bytes([16, 17, 18, 19])
    memory.write(16, b"\xff\xff")
    assert memory.read(15, 4) == bytes([15, 255, 255, 18])


@pytest.mark.parametrize("text", ["", "0x", "nonsense", "0xzz\n"])
def test_bad_config_table_address(text: str) -> None:
    with pytest.raises(DecodeError):
        secretarea.parse_config_address(text)


@pytest.mark.parametrize(
    ("base", "size"), [(0, 64), (1 << 52, 64), (4096, 0), (4096, secretarea.MAX_AREA + 1), (1 << 63, 1)]
)
def test_impossible_locations(base: int, size: int) -> None:
    with pytest.raises(DecodeError):
        secretarea.parse_location(struct.pack("<QQ", base, size))


def test_short_location() -> None:
    with pytest.raises(DecodeError):
        secretarea.parse_location(bytes(15))


@given(st.binary(max_size=200))
def test_noise_holds_no_table(data: bytes) -> None:
    assert secretarea.find_table(data, secretarea.SECRET_AREA_GUID) is None
