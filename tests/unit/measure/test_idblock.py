# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import struct

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from sealpod.errors import DecodeError, UsageError, VerificationError
from sealpod.measure.idblock import (
    AUTH_SIZE,
    BLOCK_SIZE,
    DEFAULT_POLICY,
    IdAuth,
    IdBlock,
    authenticate,
    decode_key,
    encode_key,
    key_digest,
    verify,
)

ID_KEY = ec.derive_private_key(0x1D, ec.SECP384R1())
AUTHOR_KEY = ec.derive_private_key(0xA0708, ec.SECP384R1())
LD = bytes(range(48))
BLOCK = IdBlock(LD, b"f" * 16, b"i" * 16, 1, 7, DEFAULT_POLICY)
AUTH = authenticate(BLOCK, ID_KEY, AUTHOR_KEY)


def test_the_fields_of_the_block() -> None:
    raw = BLOCK.encode()
    assert len(raw) == BLOCK_SIZE
    assert raw == LD + b"f" * 16 + b"i" * 16 + struct.pack("<IIQ", 1, 7, 0x30000)


def test_what_a_block_is_when_nothing_is_said() -> None:
    assert IdBlock(LD).encode() == LD + bytes(32) + struct.pack("<IIQ", 1, 0, 0x30000)


def test_the_fields_of_the_authentication() -> None:
    raw = AUTH.encode()
    assert len(raw) == AUTH_SIZE
    assert struct.unpack_from("<II", raw) == (1, 1)
    x = ID_KEY.public_key().public_numbers().x
    assert raw[576:580] == (2).to_bytes(4, "little")
    assert int.from_bytes(raw[580:652], "little") == x
    for begin, end in ((8, 64), (64 + 144, 576), (1604, 1664), (1664 + 144, 2176), (3204, 4096)):
        assert not any(raw[begin:end]), (begin, end)
    assert raw[576:1604] == encode_key(ID_KEY.public_key())
    assert raw[2176:3204] == encode_key(AUTHOR_KEY.public_key())


def test_signatures_verify_and_are_the_same_each_time() -> None:
    assert verify(BLOCK.encode(), AUTH.encode()) == AUTH
    assert authenticate(BLOCK, ID_KEY, AUTHOR_KEY) == AUTH


def test_an_author_need_not_be() -> None:
    alone = authenticate(BLOCK, ID_KEY, None)
    assert not alone.has_author
    assert not any(alone.encode()[1664:])
    assert verify(BLOCK.encode(), alone.encode()) == alone


def test_a_keys_digest_is_of_its_stored_form() -> None:
    raw = encode_key(ID_KEY.public_key())
    assert key_digest(raw) == hashlib.sha384(raw).digest()
    assert decode_key(raw).public_numbers() == ID_KEY.public_key().public_numbers()


blocks = st.builds(
    IdBlock,
    st.binary(min_size=48, max_size=48),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=16, max_size=16),
    st.integers(0, (1 << 32) - 1),
    st.integers(0, (1 << 32) - 1),
    st.integers(0, (1 << 64) - 1),
)


@given(blocks)
def test_blocks_read_back(block: IdBlock) -> None:
    assert IdBlock.decode(block.encode()) == block
    assert IdAuth.decode(AUTH.encode()) == AUTH


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 8 * BLOCK_SIZE - 1))
def test_every_changed_bit_of_the_block_is_refused(bit: int) -> None:
    raw = bytearray(BLOCK.encode())
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(VerificationError):
        verify(bytes(raw), AUTH.encode())


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 8 * AUTH_SIZE - 1) | st.integers(64 * 8, 64 * 8 + 2 * 72 * 8) | st.integers(0, 64))
def test_every_changed_bit_of_the_authentication_is_refused(bit: int) -> None:
    raw = bytearray(AUTH.encode())
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises((VerificationError, DecodeError)):
        verify(BLOCK.encode(), bytes(raw))


def test_a_signature_of_nobody() -> None:
    alone = authenticate(BLOCK, ID_KEY, None).replace(key_signature=b"\1" * 512)
    with pytest.raises(VerificationError):
        verify(BLOCK.encode(), alone.encode())


@given(st.integers(0, BLOCK_SIZE - 1), st.integers(0, AUTH_SIZE - 1))
def test_nothing_cut_short_is_read(block: int, auth: int) -> None:
    with pytest.raises(DecodeError):
        IdBlock.decode(BLOCK.encode()[:block])
    with pytest.raises(DecodeError):
        IdAuth.decode(AUTH.encode()[:auth])


@pytest.mark.parametrize(
    "change",
    [
        {"launch_digest": bytes(32)},
        {"family_id": bytes(15)},
        {"image_id": bytes(17)},
        {"version": -1},
        {"guest_svn": 1 << 32},
        {"policy": 1 << 64},
    ],
)
def test_a_field_that_does_not_fit(change: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        BLOCK.replace(**change).encode()
    assert caught.value.code == "idblock.field"


def test_only_p384() -> None:
    other = ec.derive_private_key(5, ec.SECP256R1())
    for keys in ((other, AUTHOR_KEY), (ID_KEY, other)):
        with pytest.raises(UsageError, match="SNP only supports the EC curve P-384"):
            authenticate(BLOCK, *keys)


@pytest.mark.parametrize("raw", [b"", bytes(1028), (2).to_bytes(4, "little") + bytes(1024), b"\1" * 1028])
def test_what_is_no_key(raw: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_key(raw)
