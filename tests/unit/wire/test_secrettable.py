# SPDX-License-Identifier: Apache-2.0
"""Vectors: tests/vectors/LEDGER.md, "wire"."""

from __future__ import annotations

import contextlib
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError, UsageError
from sealpod.wire import secrettable

ENTRY = UUID("2cf13667-ea72-4013-9dd6-155e89c5a28f")
ONE_ENTRY = bytes.fromhex(
    "42f5741edd71664d963eef4287ff173b330000006736f12c72ea13409dd6155e89c5a28f1f00000074657374207365637265"
    "7400000000000000000000000000"
)
KEYSET = b'{"key_id1":"RcHGava52DPvj1uoIk/NVDYlwxi0A6yyIZ8ilhEX3X4="}'

entries = st.lists(
    st.tuples(st.uuids(allow_nil=False), st.binary(max_size=80)), max_size=8, unique_by=lambda entry: entry[0]
)


def test_one_entry() -> None:
    assert secrettable.encode([(ENTRY, b"test secret")]) == ONE_ENTRY
    assert secrettable.decode(ONE_ENTRY) == {ENTRY: b"test secret"}


def test_no_entry() -> None:
    table = secrettable.encode([])
    assert table.hex() == "42f5741edd71664d963eef4287ff173b14000000" + "00" * 12
    assert secrettable.decode(table) == {}


def test_offline_bundle() -> None:
    table = secrettable.encode([(secrettable.OFFLINE_BUNDLE_GUID, KEYSET)])
    assert len(table) == 112
    assert table[16:20].hex() == "62000000"
    assert table[20:36].hex() == "62a1f5e67fd65047a67c5d065f2a9910"
    assert table[36:40].hex() == "4e000000"
    assert table[40:98] == KEYSET
    assert table[98:] == bytes(14)


def test_the_online_entry_has_the_bytes_the_guest_looks_for() -> None:
    assert secrettable.ONLINE_CONNECTION_GUID.bytes_le.hex() == "6673e21e870ca643af4828543eaf7cb0"


@given(entries, st.binary(max_size=40))
def test_round_trip_whatever_follows(table: list[tuple[UUID, bytes]], rest: bytes) -> None:
    data = secrettable.encode(table)
    assert len(data) % 16 == 0
    assert secrettable.decode(data + rest) == dict(table)
    assert list(secrettable.decode(data)) == [guid for guid, _ in table]


@given(entries.filter(bool))
def test_every_truncation_is_refused(table: list[tuple[UUID, bytes]]) -> None:
    data = secrettable.encode(table)
    length = int.from_bytes(data[16:20], "little")
    for size in range(length):
        with pytest.raises(DecodeError):
            secrettable.decode(data[:size])


def test_a_duplicate_is_refused_in_both_directions() -> None:
    with pytest.raises(UsageError):
        secrettable.encode([(ENTRY, b"a"), (ENTRY, b"b")])
    other = UUID("2cf13667-ea72-4013-9dd6-155e89c5a280")
    data = secrettable.encode([(ENTRY, b"a"), (other, b"b")]).replace(other.bytes_le, ENTRY.bytes_le)
    with pytest.raises(DecodeError, match="twice"):
        secrettable.decode(data)


def test_the_nil_guid_is_not_written_and_is_skipped_when_read() -> None:
    with pytest.raises(UsageError):
        secrettable.encode([(UUID(int=0), b"a")])
    other = UUID("2cf13667-ea72-4013-9dd6-155e89c5a280")
    data = secrettable.encode([(ENTRY, b"a"), (other, b"b")]).replace(ENTRY.bytes_le, bytes(16))
    assert secrettable.decode(data) == {other: b"b"}


def test_no_more_entries_than_the_guest_shows() -> None:
    many = [(UUID(int=n), b"") for n in range(1, 66)]
    assert len(secrettable.decode(secrettable.encode(many[:64]))) == 64
    with pytest.raises(UsageError):
        secrettable.encode(many)
    body = b"".join(guid.bytes_le + (20).to_bytes(4, "little") for guid, _ in many)
    header = secrettable.TABLE_GUID.bytes_le + (20 + len(body)).to_bytes(4, "little")
    with pytest.raises(DecodeError, match="more than 64"):
        secrettable.decode(header + body)


@pytest.mark.parametrize("total", [0, 19, 52, 65, 0xFFFFFFFF])
def test_a_wrong_table_length_is_refused(total: int) -> None:
    with pytest.raises(DecodeError):
        secrettable.decode(ONE_ENTRY[:16] + total.to_bytes(4, "little") + ONE_ENTRY[20:])


@pytest.mark.parametrize("size", [0, 19, 32, 0xFFFFFFFF])
def test_a_wrong_entry_length_is_refused(size: int) -> None:
    with pytest.raises(DecodeError):
        secrettable.decode(ONE_ENTRY[:36] + size.to_bytes(4, "little") + ONE_ENTRY[40:])


def test_an_empty_area_says_that_there_is_no_table() -> None:
    with pytest.raises(DecodeError) as caught:
        secrettable.decode(bytes(3072))
    assert caught.value.code == "secrettable.absent"


@given(st.binary(max_size=200) | st.binary(max_size=120).map(lambda tail: ONE_ENTRY[:16] + tail))
def test_only_decode_errors(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        secrettable.decode(data)
