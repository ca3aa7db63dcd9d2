# SPDX-License-Identifier: Apache-2.0
"""The broker's payload: vector, properties, refusals."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError
from sealpod.kbc.bincode import MAX_ENTRIES, decode_map

GUID = "2cf13667-ea72-4013-9dd6-155e89c5a28f"
VECTOR = (
    bytes.fromhex("01000000000000002400000000000000")
    + GUID.encode()
    + bytes.fromhex("0b000000000000007465737420736563726574")
)


def encode(entries: dict[str, bytes]) -> bytes:
    out = struct.pack("<Q", len(entries))
    for key, value in entries.items():
        raw = key.encode()
        out += struct.pack("<Q", len(raw)) + raw + struct.pack("<Q", len(value)) + value
    return out


def test_vector() -> None:
    assert len(VECTOR) == 71
    assert decode_map(VECTOR) == {GUID: b"test secret"}


@given(st.dictionaries(st.text(max_size=10), st.binary(max_size=20), max_size=5))
def test_round_trip(entries: dict[str, bytes]) -> None:
    assert decode_map(encode(entries)) == entries


@pytest.mark.parametrize("cut", range(len(VECTOR)))
def test_every_truncation_is_refused(cut: int) -> None:
    with pytest.raises(DecodeError):
        decode_map(VECTOR[:cut])


@pytest.mark.parametrize(
    "data",
    [
        VECTOR + b"\0",
        struct.pack("<Q", MAX_ENTRIES + 1),
        struct.pack("<Q", 1 << 63),
        struct.pack("<QQ", 1, 1 << 63) + b"k",
        struct.pack("<QQ", 1, 1) + b"\xff" + struct.pack("<Q", 0),
        struct.pack("<Q", 2) + 2 * (struct.pack("<Q", 1) + b"k" + struct.pack("<Q", 0)),
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_map(data)
    assert caught.value.code == "kbc.payload"


@given(st.binary(max_size=100))
def test_noise(data: bytes) -> None:
    try:
        decode_map(data)
    except DecodeError:
        return
