# SPDX-License-Identifier: Apache-2.0
"""Vectors: tests/vectors/LEDGER.md, "sev"."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import FirmwareError, UsageError
from sealpod.secret import SecretBytes
from sealpod.sev.kdf import hmac_sha256
from sealpod.sev.packet import HEADER_SIZE, MAX_DATA_SIZE, Packet, pack, unpack
from sealpod.sev.session import TransportKeys
from sealpod.sev.status import Status
from sealpod.wire import secrettable

KEYS = TransportKeys(SecretBytes(bytes(range(0x10, 0x20))), SecretBytes(bytes(range(0x20, 0x30))))
ZERO_KEYS = TransportKeys(SecretBytes(bytes(16)), SecretBytes(bytes(16)))
MEASURE = bytes.fromhex("a9407277c8bb8b1edf49cbf73bb8795a00bbb5fc0f7e034aa4277ecfc3b261e0")
IV = bytes(range(0x60, 0x70))

blocks = st.integers(1, 20).flatmap(lambda count: st.binary(min_size=16 * count, max_size=16 * count))


def status_of(call: Callable[[], object]) -> Status:
    with pytest.raises(FirmwareError) as caught:
        call()
    return Status(caught.value.status)


def test_deterministic_set() -> None:
    table = secrettable.encode([(secrettable.OFFLINE_BUNDLE_GUID, b"keyset data")])
    packet = pack(KEYS, table, MEASURE, iv=IV)
    assert packet.header.hex() == (
        "00000000606162636465666768696a6b6c6d6e6ff077748c3a921c28744533a2874ad7f365886072215a669372ca570fa97b806d"
    )
    assert packet.data.hex() == (
        "00d68818a520329dadb26fc9daf1cb89830798e72f5fff8d62cfc4bd16e7d74f"
        "e3aae15b11da76f33855ddaad81a2af7a363fbdb5139ce60d4089e50b4c8a07c"
    )


def test_simple_kbs() -> None:
    packet = pack(ZERO_KEYS, bytes(16), bytes(32), iv=bytes(16))
    assert packet.data.hex() == "66e94bd4ef8a2c3b884cfa59ca342b2e"
    assert packet.header[20:].hex() == "bb28694f4af3f8c385900055506eaff18f5a6ce21e727622ba9f109774f8949e"


def test_sevctl() -> None:
    keys = TransportKeys(
        SecretBytes(bytes.fromhex("52a869b79ab9c13bb6a92b0561619cb3")),
        SecretBytes(bytes.fromhex("c6d5a9956133050912b24bbe5c372686")),
    )
    blob = base64.b64decode("TLeA7607lZQntLjRY1/i+sbtdSZ+75zxpz4Px9hzpBLwItF5Q2o4prA++3ZZv9ZS")
    table = secrettable.encode([(UUID("736869e5-84f0-4973-92ec-06879ce3da0b"), b"MY-LUKS-PASSPHRASE")])
    packet = pack(keys, table, blob[:32], iv=base64.b64decode("rFR07U3TLH2YnsUj2SVZ7A=="))
    assert base64.b64encode(packet.header).decode() == (
        "AAAAAKxUdO1N0yx9mJ7FI9klWey8FSzeYQ4X8K71VzNKLU/KQsIsQxLjtbhaPUewqshX5Q=="
    )
    assert base64.b64encode(packet.data).decode() == (
        "0U3e5PcXv0UW+H4tSBFKOdCYfKE1+j38Bc2fuO16mYiyI+sWx7INfn+lgYj56GL12yyinDa+lVfCCwD/2w5cPA=="
    )


@given(blocks, st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32))
def test_round_trip(plaintext: bytes, iv: bytes, measure: bytes) -> None:
    packet = pack(KEYS, plaintext, measure, iv=iv)
    assert len(packet.header) == HEADER_SIZE
    assert len(packet.data) == len(plaintext)
    assert unpack(KEYS, packet.header, packet.data, measure) == SecretBytes(plaintext)


@given(st.data())
def test_every_bit_flip_is_a_bad_measurement(data: st.DataObject) -> None:
    packet = pack(KEYS, b"x" * 48, MEASURE, iv=IV)
    whole = packet.header + packet.data + MEASURE
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    changed = bytearray(whole)
    changed[bit // 8] ^= 1 << bit % 8
    header, body, measure = bytes(changed[:52]), bytes(changed[52:100]), bytes(changed[100:])
    assert status_of(lambda: unpack(KEYS, header, body, measure)) is Status.BAD_MEASUREMENT


@given(st.integers(0, 51), st.integers(0, 47))
def test_every_truncation_is_refused(header_size: int, data_size: int) -> None:
    packet = pack(KEYS, b"x" * 48, MEASURE, iv=IV)
    cut = packet.header[:header_size]
    assert status_of(lambda: unpack(KEYS, cut, packet.data, MEASURE)) is Status.INVALID_LENGTH
    short = packet.data[:data_size]
    expected = Status.BAD_MEASUREMENT if data_size and data_size % 16 == 0 else Status.INVALID_LENGTH
    assert status_of(lambda: unpack(KEYS, packet.header, short, MEASURE)) is expected


def test_compression_is_unsupported_but_only_after_the_mac() -> None:
    packet = pack(KEYS, b"x" * 16, MEASURE, iv=IV)
    flags = struct.pack("<I", 1)
    mac = hmac_sha256(
        KEYS.tik.reveal(), b"\1" + flags + IV + struct.pack("<II", 16, 16) + packet.data + MEASURE
    )
    assert status_of(lambda: unpack(KEYS, flags + IV + mac, packet.data, MEASURE)) is Status.UNSUPPORTED
    unmacked = flags + packet.header[4:]
    assert status_of(lambda: unpack(KEYS, unmacked, packet.data, MEASURE)) is Status.BAD_MEASUREMENT


def test_a_packet_fits_one_launch_and_one_pair_of_keys() -> None:
    packet = pack(KEYS, b"x" * 16, MEASURE, iv=IV)
    assert status_of(lambda: unpack(KEYS, packet.header, packet.data, bytes(32))) is Status.BAD_MEASUREMENT
    assert status_of(lambda: unpack(ZERO_KEYS, packet.header, packet.data, MEASURE)) is Status.BAD_MEASUREMENT


@pytest.mark.parametrize("size", [0, 1, 15, 17, MAX_DATA_SIZE + 1, MAX_DATA_SIZE + 16])
def test_sizes_the_firmware_refuses_are_refused_by_both_sides(size: int) -> None:
    with pytest.raises(UsageError):
        pack(KEYS, bytes(size), MEASURE, iv=IV)
    assert status_of(lambda: unpack(KEYS, bytes(52), bytes(size), MEASURE)) is Status.INVALID_LENGTH


def test_the_largest_secret_of_a_packet() -> None:
    table = secrettable.encode([(secrettable.OFFLINE_BUNDLE_GUID, bytes(16344))])
    assert len(table) == MAX_DATA_SIZE
    packet: Packet = pack(KEYS, table, MEASURE, iv=IV)
    assert unpack(KEYS, packet.header, packet.data, MEASURE).reveal() == table


@pytest.mark.parametrize(("iv", "measure"), [(bytes(12), bytes(32)), (bytes(16), bytes(48))])
def test_iv_and_measure_have_their_size(iv: bytes, measure: bytes) -> None:
    with pytest.raises(UsageError):
        pack(KEYS, bytes(16), measure, iv=iv)
