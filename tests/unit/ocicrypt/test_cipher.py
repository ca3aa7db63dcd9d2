# SPDX-License-Identifier: Apache-2.0
"""The layer cipher. Vectors: computed with another implementation, which skopeo confirmed (LEDGER.md)."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import UsageError, VerificationError
from sealpod.ocicrypt.cipher import WITHHELD, Decryptor, Encryptor
from sealpod.secret import SecretBytes

KEY = SecretBytes(bytes(range(32)))
NONCE = bytes(range(16))


def seal(plaintext: bytes, key: SecretBytes = KEY, nonce: bytes = NONCE) -> tuple[bytes, bytes]:
    cipher = Encryptor(key, nonce)
    return cipher.update(plaintext), cipher.finish()


def test_known_answer() -> None:
    ciphertext, mac = seal(b"hello layer")
    assert ciphertext.hex() == "320b683b67db1df7894b27"
    assert mac.hex() == "99f223cad2b6ee1d764709427cd95d9aa6eaaec0c7383d16e98213024917d647"
    assert base64.b64encode(mac) == b"mfIjytK27h12RwlCfNldmqbqrsDHOD0W6YITAkkX1kc="


def test_the_counter_wraps() -> None:
    ciphertext, _ = seal(bytes(32), nonce=b"\xff" * 16)
    assert ciphertext.hex() == "e999e41d4ca770da5387117b5d8f57eef29000b62a499fd0a9f39a6add2e7780"


@given(st.binary(max_size=3 * WITHHELD), st.lists(st.integers(1, WITHHELD), min_size=1, max_size=8))
def test_round_trip_in_any_pieces(plaintext: bytes, sizes: list[int]) -> None:
    ciphertext, mac = seal(plaintext)
    decryptor = Decryptor(KEY, NONCE, mac)
    out, position, turn = b"", 0, 0
    while position < len(ciphertext):
        size = sizes[turn % len(sizes)]
        out += decryptor.update(ciphertext[position : position + size])
        position, turn = position + size, turn + 1
        assert len(out) <= max(0, position - WITHHELD)
    assert out + decryptor.finish() == plaintext


@given(st.binary(min_size=1, max_size=200), st.data())
def test_every_bit_flip_is_refused(plaintext: bytes, data: st.DataObject) -> None:
    ciphertext, mac = seal(plaintext)
    bit = data.draw(st.integers(0, 8 * len(ciphertext) - 1))
    damaged = bytearray(ciphertext)
    damaged[bit // 8] ^= 1 << bit % 8
    decryptor = Decryptor(KEY, NONCE, mac)
    assert decryptor.update(bytes(damaged)) == b""
    with pytest.raises(VerificationError, match="HMAC") as caught:
        decryptor.finish()
    assert caught.value.code == "image.hmac"


def test_every_truncation_is_refused_and_the_end_withheld() -> None:
    plaintext = bytes(range(256)) * 80
    ciphertext, mac = seal(plaintext)
    for length in (0, 1, 15, 16, 17, WITHHELD, WITHHELD + 1, len(ciphertext) - 1):
        decryptor = Decryptor(KEY, NONCE, mac)
        assert len(decryptor.update(ciphertext[:length])) == max(0, length - WITHHELD)
        with pytest.raises(VerificationError):
            decryptor.finish()


def test_another_key_is_refused() -> None:
    ciphertext, mac = seal(b"data")
    decryptor = Decryptor(SecretBytes(bytes(32)), NONCE, mac)
    decryptor.update(ciphertext)
    with pytest.raises(VerificationError, match="key is wrong"):
        decryptor.finish()


def test_sizes_of_key_and_nonce() -> None:
    with pytest.raises(UsageError, match="31 bytes; need 32"):
        Encryptor(SecretBytes(bytes(31)), NONCE)
    with pytest.raises(UsageError, match="12 bytes; need 16"):
        Encryptor(KEY, bytes(12))
