# SPDX-License-Identifier: Apache-2.0
"""Decompression: members, padding, truncation, bombs."""

from __future__ import annotations

import gzip
import importlib.util
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagekit import Pieces

from sealpod.errors import DecodeError, OperationError
from sealpod.image.inflate import open_inflated


def inflate(data: bytes, kind: str = "gzip", piece: int = 0, read: int = 1000, limit: int = 1 << 30) -> bytes:
    stream = open_inflated(Pieces(data, piece), kind, limit)
    return b"".join(iter(lambda: stream.read(read), b""))


@given(
    st.lists(st.binary(max_size=3000), min_size=1, max_size=4),
    st.sampled_from([1, 7, 4096]),
    st.integers(0, 20),
)
def test_members_in_any_pieces(parts: list[bytes], piece: int, padding: int) -> None:
    data = b"".join(gzip.compress(part) for part in parts) + bytes(padding)
    assert inflate(data, piece=piece, read=500) == b"".join(parts)


def test_padding_between_members_in_single_bytes() -> None:
    data = gzip.compress(b"a") + bytes(3) + gzip.compress(b"b") + bytes(3)
    assert inflate(data, piece=1) == b"ab"


def test_every_truncation_is_refused() -> None:
    data = gzip.compress(os.urandom(300))
    for length in range(len(data)):
        with pytest.raises(DecodeError) as caught:
            inflate(data[:length])
        assert caught.value.code == "image.gzip"


@pytest.mark.parametrize("data", [b"not gzip at all", gzip.compress(b"x") + b"trailing"])
def test_garbage(data: bytes) -> None:
    with pytest.raises(DecodeError):
        inflate(data)


def test_a_damaged_checksum_is_refused() -> None:
    data = bytearray(gzip.compress(b"x" * 100))
    data[-5] ^= 1
    with pytest.raises(DecodeError):
        inflate(bytes(data))


def test_a_bomb_stops_at_the_limit_and_reads_stay_small() -> None:
    bomb = gzip.compress(bytes(8 << 20))
    stream = open_inflated(Pieces(bomb), "gzip", 1 << 20)
    pieces: list[bytes] = []
    with pytest.raises(DecodeError) as caught:
        pieces.extend(iter(lambda: stream.read(4096), b""))
    assert caught.value.code == "image.layer-limit"
    assert max(map(len, pieces)) <= 4096
    assert sum(map(len, pieces)) <= 1 << 20


def test_plain_streams_are_bounded_too() -> None:
    assert inflate(b"abc", "", limit=3) == b"abc"
    with pytest.raises(DecodeError):
        inflate(b"abcd", "", limit=3)


@pytest.mark.skipif(importlib.util.find_spec("zstandard") is None, reason="zstandard is not installed")
def test_zstd() -> None:
    import zstandard

    data = os.urandom(1000) * 50
    packed = zstandard.compress(data[:20_000]) + zstandard.compress(data[20_000:])
    assert inflate(packed, "zstd", piece=100) == data
    with pytest.raises(DecodeError):
        inflate(b"not zstd", "zstd")


def test_zstd_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(OperationError, match="zstandard") as caught:
        inflate(b"", "zstd")
    assert caught.value.code == "image.zstd-missing"
