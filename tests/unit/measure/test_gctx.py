# SPDX-License-Identifier: Apache-2.0
"""Vectors: tests/vectors/LEDGER.md, "measure"."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError
from sealpod.measure.gctx import NO_CONTENT, NORMAL, VMSA_GPA, Gctx, page_info

FIRST_CONTENT = (
    "f4a4ecfd7d340e70e4c77f5a2eca86b356c21e234e4022c4e0c4603df267fbb5bd3756a6e62756e84e846862c37a6154"
)
FIRST_DIGEST = (
    "653dbdf3c76269ea37acb33c5cd6f170b82a26489d330d3bb585732e0cc1f3748039f3f59b31ce0e607be81bf789e3f5"
)


def test_the_first_link_worked_by_hand(images: dict[str, bytes]) -> None:
    page = images["ovmf_full_64k"][:4096]
    content = hashlib.sha384(page).digest()
    assert content.hex() == FIRST_CONTENT
    assert page_info(NO_CONTENT, content, NORMAL, 0xFFFF0000).hex() == (
        "00" * 48 + FIRST_CONTENT + "70000100000000000000ffff00000000"
    )
    gctx = Gctx()
    gctx.normal(0xFFFF0000, page)
    assert gctx.ld.hex() == FIRST_DIGEST


def by_hand(links: list[tuple[bytes, int, int]]) -> bytes:
    digest = bytes(48)
    for content, kind, gpa in links:
        head = b"\x70\0" + bytes([kind]) + bytes(5) + gpa.to_bytes(8, "little")
        digest = hashlib.sha384(digest + content + head).digest()
    return digest


pages = st.integers(0, 4)
addresses = st.integers(0, 1 << 40).map(lambda number: number * 4096)


@given(addresses, pages, st.binary(min_size=1, max_size=8))
def test_pages_are_linked_one_by_one(gpa: int, count: int, seed: bytes) -> None:
    data = (seed * 4096)[:4096] * count
    gctx = Gctx()
    gctx.normal(gpa, memoryview(data))
    content = hashlib.sha384(data[:4096]).digest()
    assert gctx.ld == by_hand([(content, 1, gpa + 4096 * number) for number in range(count)])


@given(addresses, pages)
def test_types_without_content(gpa: int, count: int) -> None:
    gctx = Gctx()
    gctx.zero(gpa, 4096 * count)
    gctx.unmeasured(gpa, 4096 * count)
    gctx.secrets(gpa)
    gctx.cpuid(gpa)
    steps = [gpa + 4096 * number for number in range(count)]
    links = [(3, each) for each in steps] + [(4, each) for each in steps] + [(5, gpa), (6, gpa)]
    assert gctx.ld == by_hand([(bytes(48), kind, each) for kind, each in links])


def test_vcpus_lie_where_all_vcpus_lie() -> None:
    first, other = b"\1" * 4096, b"\2" * 4096
    gctx = Gctx()
    for page in (first, other, other, first):
        gctx.vmsa(page)
    hashes = [hashlib.sha384(page).digest() for page in (first, other, other, first)]
    assert gctx.ld == by_hand([(each, 2, VMSA_GPA) for each in hashes])


def test_a_chain_can_be_taken_up() -> None:
    whole, first = Gctx(), Gctx()
    for gctx in (whole, first):
        gctx.normal(0, bytes(4096))
    second = Gctx(first.ld)
    for gctx in (whole, second):
        gctx.cpuid(0x1000)
    assert second.ld == whole.ld


@pytest.mark.parametrize("size", [1, 4095, 4097])
def test_only_whole_pages(size: int) -> None:
    gctx = Gctx()
    for measure in (gctx.normal, gctx.zero, gctx.unmeasured):
        with pytest.raises(DecodeError):
            measure(0, bytes(size) if measure == gctx.normal else size)  # type: ignore[arg-type]
    with pytest.raises(DecodeError):
        gctx.vmsa(bytes(size))
    assert gctx.ld == bytes(48)


@pytest.mark.parametrize("size", [0, 32, 47, 49])
def test_a_digest_of_another_length_is_none(size: int) -> None:
    with pytest.raises(DecodeError):
        Gctx(bytes(size))
