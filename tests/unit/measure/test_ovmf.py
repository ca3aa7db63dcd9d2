# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealpod.errors import DecodeError
from sealpod.measure.ovmf import Area, Ovmf, Section

HASHES = "7255371f-3a3b-4b04-927b-1da6efa8d454"
SECRET = "4c2eb361-7d9b-4cc3-8081-127c90d3d294"
RESET = "00f771de-1a7e-4fcb-890e-68c77e2fb44e"
METADATA = "dc886566-984a-4798-a75e-5585a7bf67cc"
OTHER = "784fa70e-3176-4677-8a20-04b68699e374"

MakeImage = Callable[..., bytes]


def test_a_full_image(images: dict[str, bytes]) -> None:
    ovmf = Ovmf.parse(images["ovmf_full_64k"])
    assert ovmf.size == 65536
    assert ovmf.hash_table == Area(0x810C00, 0x400)
    assert ovmf.secret_block == Area(0x810000, 0xC00)
    assert ovmf.reset_address == 0x80B004
    assert len(ovmf.sections) == 7
    assert ovmf.sections[0] == Section(0x800000, 0x9000, 1)
    assert ovmf.sections[-1] == Section(0x810000, 0x1000, 0x10)


def test_a_build_without_hashes_and_secret(images: dict[str, bytes]) -> None:
    ovmf = Ovmf.parse(images["ovmf_nohash_64k"])
    assert (ovmf.hash_table, ovmf.secret_block, ovmf.reset_address) == (None, None, 0x80B004)


def test_an_image_without_metadata(images: dict[str, bytes]) -> None:
    ovmf = Ovmf.parse(images["ovmf_oldstyle_4k"])
    assert ovmf.hash_table == Area(0x80FC00, 0x400)
    assert ovmf.sections == ()


def test_an_image_without_a_table_is_no_error(images: dict[str, bytes]) -> None:
    assert Ovmf.parse(images["ovmf_nofooter_8k"]) == Ovmf(8192, None, None, None, ())


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_read(kind: Callable[[bytes], bytes], images: dict[str, bytes]) -> None:
    assert Ovmf.parse(kind(images["ovmf_full_64k"])) == Ovmf.parse(images["ovmf_full_64k"])


def test_the_real_image(shared_data: Path) -> None:
    ovmf = Ovmf.parse((shared_data / "OVMF.amdsev.fd").read_bytes())
    assert ovmf.size == 4 << 20
    assert ovmf.hash_table == Area(0x810C00, 0x400)
    assert ovmf.secret_block == Area(0x810000, 0xC00)
    assert ovmf.reset_address == 0x80B004
    assert [section.kind for section in ovmf.sections] == [1, 1, 2, 3, 4, 1, 0x10]


def test_the_reset_block_alone_in_the_footers_place(images: dict[str, bytes], table_image: MakeImage) -> None:
    image = bytearray(images["ovmf_nofooter_8k"])
    block = table_image([(RESET, struct.pack("<I", 0x80B004))])[-32 - 18 - 22 : -32 - 18]
    image[-32 - 22 : -32] = block
    assert Ovmf.parse(bytes(image)).reset_address == 0x80B004


def test_of_two_entries_the_one_nearest_the_end_counts(table_image: MakeImage) -> None:
    first, last = struct.pack("<II", 0x1000, 0x400), struct.pack("<II", 0x2000, 0x400)
    assert Ovmf.parse(table_image([(HASHES, first), (HASHES, last)])).hash_table == Area(0x2000, 0x400)


def test_unknown_entries_are_passed_over(table_image: MakeImage) -> None:
    image = table_image([(OTHER, b"x" * 7), (SECRET, struct.pack("<II", 0x1000, 16)), (OTHER, b"")])
    assert Ovmf.parse(image).secret_block == Area(0x1000, 16)


@pytest.mark.parametrize(("base", "size"), [(0, 0x400), (0x1000, 175), (0x1000, 0)])
def test_an_area_qemu_refuses_counts_as_none(base: int, size: int, table_image: MakeImage) -> None:
    assert Ovmf.parse(table_image([(HASHES, struct.pack("<II", base, size))])).hash_table is None


@pytest.mark.parametrize("size", [0, 1, 49])
def test_too_short_for_a_firmware(size: int) -> None:
    with pytest.raises(DecodeError):
        Ovmf.parse(bytes(size))


@pytest.mark.parametrize("length", [0, 17])
def test_a_footer_that_does_not_count_itself_is_no_table(length: int, table_image: MakeImage) -> None:
    assert Ovmf.parse(table_image([(RESET, bytes(4))], length)) == Ovmf(4096, None, None, None, ())


@pytest.mark.parametrize("length", [39, 4097, 0xFFFF])
def test_a_footer_that_counts_wrong(length: int, table_image: MakeImage) -> None:
    with pytest.raises(DecodeError):
        Ovmf.parse(table_image([(RESET, bytes(4))], length))


@pytest.mark.parametrize("length", [0, 17, 100, 0xFFFF])
def test_an_entry_that_counts_wrong(length: int, table_image: MakeImage) -> None:
    image = bytearray(table_image([(OTHER, bytes(8)), (RESET, bytes(4))]))
    at = len(image) - 32 - 18 - 18
    image[at : at + 2] = struct.pack("<H", length)
    with pytest.raises(DecodeError, match="Invalid entry size"):
        Ovmf.parse(bytes(image))


@pytest.mark.parametrize(("guid", "size"), [(HASHES, 7), (SECRET, 0), (RESET, 3), (METADATA, 2)])
def test_a_payload_that_is_too_short(guid: str, size: int, table_image: MakeImage) -> None:
    with pytest.raises(DecodeError, match="too short"):
        Ovmf.parse(table_image([(guid, bytes(size))]))


@pytest.mark.parametrize("distance", [0, 15, 4097, 0xFFFFFFFF])
def test_metadata_outside_the_image(distance: int, table_image: MakeImage) -> None:
    with pytest.raises(DecodeError, match="outside"):
        Ovmf.parse(table_image([(METADATA, struct.pack("<I", distance))]))


@pytest.mark.parametrize(
    ("offset", "value", "text"),
    [
        (0, b"BSEV", "Wrong SEV metadata signature"),
        (8, struct.pack("<I", 2), "Wrong SEV metadata version"),
        (4, struct.pack("<I", 99), "Wrong SEV metadata length"),
        (4, struct.pack("<I", 0x401), "Wrong SEV metadata length"),
        (12, struct.pack("<I", 0xFFFFFFFF), "Wrong SEV metadata length"),
    ],
)
def test_wrong_metadata(offset: int, value: bytes, text: str, images: dict[str, bytes]) -> None:
    image = bytearray(images["ovmf_full_64k"])
    start = len(image) - 0x400 + offset
    image[start : start + len(value)] = value
    with pytest.raises(DecodeError, match=text):
        Ovmf.parse(bytes(image))


@given(st.binary(max_size=400))
def test_noise_gives_only_decode_errors(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        Ovmf.parse(data)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 0x500), patch=st.binary(min_size=1, max_size=20), cut=st.integers(0, 4096))
def test_damage_gives_only_decode_errors(at: int, patch: bytes, cut: int, images: dict[str, bytes]) -> None:
    for name in ("ovmf_full_64k", "ovmf_oldstyle_4k"):
        image = bytearray(images[name])
        start = len(image) - at
        image[start : start + len(patch)] = patch
        for damaged in (bytes(image), bytes(image[cut:])):
            with contextlib.suppress(DecodeError):
                Ovmf.parse(damaged)
