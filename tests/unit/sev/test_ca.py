# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from sealpod.errors import DecodeError, UsageError, VerificationError
from sealpod.sev.ca import CaCertificate, make_ca
from sealpod.sev.chain import verify_chain
from sealpod.sev.roots import AMD_ARKS, NAPLES_ARK_SIGNATURE
from sealpod.sev.signature import Algorithm, Usage

GENERATIONS = ("naples", "rome", "milan", "genoa", "turin")


@pytest.mark.parametrize(
    ("bits", "size", "algorithm"), [(2048, 832, Algorithm.RSA_SHA256), (4096, 1600, Algorithm.RSA_SHA384)]
)
def test_a_made_hierarchy_round_trips_and_verifies(
    bits: int, size: int, algorithm: Algorithm, build_hierarchy: Callable[[int], Any]
) -> None:
    made = build_hierarchy(bits)
    ark, ask = made.chain.ark, made.chain.ask
    for found in (ark, ask):
        assert CaCertificate.decode(found.encode()) == (found, size)
        assert CaCertificate.decode(found.encode() + b"rest") == (found, size)
        assert found.algorithm is algorithm
        found.verify_signed_by(ark)
    assert ark.public_key() == made.ark_key.public_key()
    assert len(made.chain.encode()) == 4 * 2084 + 2 * size
    assert verify_chain(made.chain, made.trusted).root == "model"


def test_the_issuers_key_id_must_be_named(hierarchy: Any) -> None:
    ask = make_ca(hierarchy.ask_key.public_key(), Usage.ASK, b"S" * 16, b"X" * 16, hierarchy.ark_key)
    with pytest.raises(VerificationError) as caught:
        ask.verify_signed_by(hierarchy.chain.ark)
    assert caught.value.code == "sev.issuer"


@pytest.mark.parametrize("bits", [2048, 4096])
def test_upstream_bug_a_truncated_ca_certificate_gets_no_foreign_signature(
    bits: int, hierarchy: Any, build_hierarchy: Callable[[int], Any]
) -> None:
    """A widely used library completes any that ends early with Naples' signature, or panics (4096 bits)."""
    made = hierarchy if bits == 2048 else build_hierarchy(bits)
    data = made.chain.ark.encode()
    for size in range(len(data)):
        with pytest.raises(DecodeError):
            CaCertificate.decode(data[:size])


def test_naples_short_ark_is_completed_and_nothing_like_it(amd: Path) -> None:
    whole = (amd / "naples" / "ark.cert").read_bytes()
    short = (amd / "naples" / "ark.cert.bad").read_bytes()
    assert len(short) == 576
    found, size = CaCertificate.decode(short)
    assert (found.encode(), size) == (whole, 576)
    for other in (short[:-1], short + b"\0", short[:500] + bytes([short[500] ^ 1]) + short[501:], bytes(576)):
        with pytest.raises(DecodeError):
            CaCertificate.decode(other)


def test_the_completing_signature_is_the_published_one() -> None:
    digest = hashlib.sha256(NAPLES_ARK_SIGNATURE).hexdigest()
    assert digest == "99c820b33b8938a05bcd28703535bbcaf2dc59c65cfe156fd377ceef7e9c006c"


@pytest.mark.parametrize("generation", GENERATIONS)
def test_amds_roots(generation: str, amd: Path) -> None:
    files = [(amd / generation / f"{name}.cert").read_bytes() for name in ("ark", "ask")]
    ark, ask = (CaCertificate.decode(data)[0] for data in files)
    assert [ark.encode(), ask.encode()] == files
    assert (ark.usage, ask.usage) == (Usage.ARK, Usage.ASK)
    ark.verify_signed_by(ark)
    ask.verify_signed_by(ark)
    assert AMD_ARKS[ark.sha256] == f"AMD {generation.capitalize()}"
    with pytest.raises(VerificationError):
        ark.verify_signed_by(ask)


def test_pins_are_frozen() -> None:
    assert sorted(AMD_ARKS.values()) == sorted(f"AMD {name.capitalize()}" for name in GENERATIONS)
    assert all(len(bytes.fromhex(pin)) == 32 and pin == pin.lower() for pin in AMD_ARKS)
    with pytest.raises(TypeError):
        AMD_ARKS["0" * 64] = "stranger"  # type: ignore[index]


# Offsets of fields that have only one value: version, usage, reserved, both sizes, exponent.
@pytest.mark.parametrize("offset", [0, 0x24, 0x25, 0x28, 0x37, 0x38, 0x3C, 0x40, 0x40 + 255])
def test_fields_with_one_value_are_checked(offset: int, hierarchy: Any) -> None:
    data = bytearray(hierarchy.chain.ark.encode())
    data[offset] ^= 0x80
    with pytest.raises(DecodeError):
        CaCertificate.decode(bytes(data))


def test_a_modulus_of_another_size_is_refused(hierarchy: Any) -> None:
    good = hierarchy.chain.ark
    for modulus in (good.modulus[:-1] + b"\x01", b"\x02" + good.modulus[1:]):
        with pytest.raises(DecodeError):
            CaCertificate.decode(replace(good, modulus=modulus).encode())


def test_what_the_format_cannot_hold_is_refused(hierarchy: Any) -> None:
    key, big = hierarchy.ark_key, rsa.generate_private_key(65537, 3072)
    for arguments in (
        (big.public_key(), Usage.ARK, bytes(16), bytes(16), big),
        (key.public_key(), Usage.ARK, bytes(16), bytes(16), big),
        (key.public_key(), Usage.ARK, bytes(15), bytes(16), key),
        (key.public_key(), Usage.ARK, bytes(16), bytes(17), key),
    ):
        with pytest.raises(UsageError):
            make_ca(*arguments)
