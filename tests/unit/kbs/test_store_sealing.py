# SPDX-License-Identifier: Apache-2.0
"""Sealing at rest: the format, its bindings, and several key-encryption keys."""

from __future__ import annotations

import base64
import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import UsageError, VerificationError
from sealpod.kbs.core.sealing import (
    OVERHEAD,
    KeyRing,
    is_sealed,
    kek_id,
    sealed_length,
    sealed_under,
)
from sealpod.secret import SecretBytes

OLD, NEW = SecretBytes(b"\x01" * 32), SecretBytes(b"\x02" * 32)


def ring(active: SecretBytes = OLD, *older: SecretBytes) -> KeyRing:
    return KeyRing(active, older, rng=os.urandom)


@given(st.binary(max_size=700), st.binary(max_size=40))
def test_round_trip(value: bytes, context: bytes) -> None:
    keys = ring()
    sealed = keys.seal(SecretBytes(value), context=context)
    assert keys.open(sealed, context=context) == SecretBytes(value)
    text = sealed.decode()
    assert is_sealed(text)
    assert sealed_under(text) == kek_id(OLD) == keys.active
    assert len(text) == sealed_length(len(value))
    assert len(value) < 8 or value not in sealed


def test_the_format_read_by_its_description() -> None:
    """Nothing of ours but the text: the docstring's layout with AES-GCM alone."""
    sealed = ring().seal(SecretBytes(b"a key"), context=b"secrets key_id1").decode()
    mark, version, name, payload = sealed.split(":")
    assert (mark, version, name) == ("sealpod", "1", "5cb7b247")
    raw = base64.b64decode(payload, validate=True)
    assert len(raw) == OVERHEAD + 5
    key = AESGCM(OLD.reveal()).decrypt(raw[:12], raw[12:60], b"sealpod KEK wrap 1 " + name.encode())
    assert AESGCM(key).decrypt(bytes(12), raw[60:], b"secrets key_id1") == b"a key"


def test_no_two_sealed_values_are_alike() -> None:
    keys = ring()
    assert keys.seal(SecretBytes(b"x"), context=b"") != keys.seal(SecretBytes(b"x"), context=b"")


@pytest.mark.parametrize("context", [b"", b"launch 2", b"launch 10"])
def test_bound_to_its_context(context: bytes) -> None:
    with pytest.raises(VerificationError):
        ring().open(ring().seal(SecretBytes(b"keys"), context=b"launch 1"), context=context)


def test_every_bit_and_every_length_counts() -> None:
    keys = ring()
    sealed = keys.seal(SecretBytes(b"keys"), context=b"")
    damaged = [sealed[:size] for size in range(len(sealed))] + [sealed + b"A", sealed + b"\n"]
    damaged += [
        bytes([*sealed[:i], sealed[i] ^ 1 << bit, *sealed[i + 1 :]])
        for i in range(len(sealed))
        for bit in range(8)
    ]
    for one in damaged:
        with pytest.raises(VerificationError):
            keys.open(one, context=b"")
        with pytest.raises(VerificationError):
            # A change of the value alone is only found with its context, which rewrapping does not have.
            keys.open(keys.rewrap(one), context=b"")


def test_another_key_is_named() -> None:
    sealed = ring(OLD).seal(SecretBytes(b"keys"), context=b"")
    with pytest.raises(VerificationError) as caught:
        ring(NEW).open(sealed, context=b"")
    assert caught.value.code == "seal.key-missing"
    assert kek_id(OLD) in caught.value.message


def test_a_wrapped_key_does_not_serve_another_kek() -> None:
    """The id is authenticated: a value relabelled to a loaded KEK does not open under it."""
    text = ring(OLD).seal(SecretBytes(b"keys"), context=b"").decode()
    forged = text.replace(kek_id(OLD), kek_id(NEW))
    with pytest.raises(VerificationError) as caught:
        ring(NEW, OLD).open(forged.encode(), context=b"")
    assert caught.value.code == "seal.broken"


def test_old_keys_read_and_the_active_one_writes() -> None:
    sealed = ring(OLD).seal(SecretBytes(b"keys"), context=b"c")
    both = ring(NEW, OLD)
    assert both.ids == {kek_id(OLD), kek_id(NEW)}
    assert both.open(sealed, context=b"c") == SecretBytes(b"keys")
    moved = both.rewrap(sealed)
    assert sealed_under(moved.decode()) == kek_id(NEW)
    assert ring(NEW).open(moved, context=b"c") == SecretBytes(b"keys")
    with pytest.raises(VerificationError):
        ring(NEW).open(moved, context=b"d")


def test_a_value_put_under_another_records_key() -> None:
    keys = ring()
    one, two = (
        base64.b64decode(keys.seal(SecretBytes(text), context=text).decode().split(":")[3])
        for text in (b"one", b"two")
    )
    mixed = f"sealpod:1:{keys.active}:{base64.b64encode(one[:60] + two[60:]).decode()}"
    for context in (b"one", b"two"):
        with pytest.raises(VerificationError):
            keys.open(mixed.encode(), context=context)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_keys_of_another_size(size: int) -> None:
    with pytest.raises(UsageError):
        ring(SecretBytes(bytes(size)))


@pytest.mark.parametrize("text", ["", "a2V5", "sealpod:2:00000000:AAAA", "Sealpod:1:", "x sealpod:1:"])
def test_what_is_not_sealed_by_this_version(text: str) -> None:
    assert sealed_under(text) is None


def test_no_key_shows() -> None:
    assert "\\x01" not in repr(ring()) + str(ring())
    assert not hasattr(ring(), "__dict__")
