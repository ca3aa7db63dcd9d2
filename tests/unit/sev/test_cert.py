# SPDX-License-Identifier: Apache-2.0
"""Vectors: tests/vectors/LEDGER.md, "sev"."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError, UsageError, VerificationError
from sealpod.sev import cert
from sealpod.sev.cert import Algorithm, Certificate, Signature, Usage, make, sign
from sealpod.sev.signature import sign_bytes, verify_bytes

DSA = Algorithm.ECDSA_SHA256
DIGESTS = {
    "oca": "181282b5dd9417c6130bf2f8a704b8d763667eae741bf5b872780feb648d7d19",
    "pek": "b0f87565e8516fb60c1b580232aa633044d44c62d2cb828209875856f9c716eb",
    "pdh": "1697b64c86e11757378f6ad8c8ec618b77ee6871e9f3a077e36c1259e2c4c3b1",
    "cek": "e3926f93a60b894ee0686802632cd236367f87a11d7dff6f96a2b10ea4cd7c9b",
}


def test_sizes_are_the_manuals() -> None:
    assert (cert.BODY_SIZE, cert.SIZE) == (1044, 2084)


@pytest.mark.parametrize("name", DIGESTS)
def test_deterministic_set(name: str, certificates: dict[str, Certificate]) -> None:
    data = certificates[name].encode()
    assert hashlib.sha256(data).hexdigest() == DIGESTS[name]
    assert Certificate.decode(data) == certificates[name]


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
def test_a_key_comes_back_from_its_certificate(curve: ec.EllipticCurve) -> None:
    public = ec.generate_private_key(curve).public_key()
    back = Certificate.decode(make(public, Usage.PEK, DSA, api=(1, 55)).encode())
    assert back.public_key() == public
    assert (back.usage, back.algorithm, back.api) == (Usage.PEK, DSA, (1, 55))


def test_an_unsigned_certificate_has_empty_slots_not_zeros(certificates: dict[str, Certificate]) -> None:
    data = certificates["cek"].encode()
    assert data[1044:1052].hex() == data[1564:1572].hex() == "0010000000000000"
    assert not any(data[1052:1564] + data[1572:])


def test_a_curve_the_format_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError):
        make(ec.generate_private_key(ec.SECP521R1()).public_key(), Usage.PDH, Algorithm.ECDH_SHA256)


@pytest.mark.parametrize("algorithm", [Algorithm.ECDSA_SHA256, Algorithm.ECDSA_SHA384])
@pytest.mark.parametrize("slot", [0, 1])
def test_ec_signature(
    algorithm: Algorithm,
    slot: int,
    certificates: dict[str, Certificate],
    ec_keys: dict[str, ec.EllipticCurvePrivateKey],
) -> None:
    signed = sign(certificates["cek"], ec_keys["oca"], Usage.OCA, algorithm, slot)
    assert signed.signatures[1 - slot] == Signature()
    signed.verify_signed_by(ec_keys["oca"].public_key(), Usage.OCA, algorithm)
    with pytest.raises(VerificationError):
        signed.verify_signed_by(ec_keys["pek"].public_key(), Usage.OCA, algorithm)
    with pytest.raises(VerificationError) as caught:
        signed.verify_signed_by(ec_keys["oca"].public_key(), Usage.CEK, algorithm)
    assert caught.value.code == "sev.unsigned"


@pytest.mark.parametrize(
    ("bits", "algorithm"),
    [(2048, Algorithm.RSA_SHA256), (2048, Algorithm.RSA_SHA384), (3072, Algorithm.RSA_SHA256)],
)
def test_rsa_signature(bits: int, algorithm: Algorithm, certificates: dict[str, Certificate]) -> None:
    key = rsa.generate_private_key(65537, bits)
    signed = sign(certificates["cek"], key, Usage.ASK, algorithm, 0)
    assert not any(signed.signatures[0].raw[bits // 8 :])
    signed.verify_signed_by(key.public_key(), Usage.ASK, algorithm)


def test_rsa_salt_is_as_long_as_the_digest(certificates: dict[str, Certificate]) -> None:
    from cryptography.hazmat.primitives.asymmetric import padding
    from cryptography.hazmat.primitives.hashes import SHA384

    key = rsa.generate_private_key(65537, 2048)
    signed = sign(certificates["cek"], key, Usage.ASK, Algorithm.RSA_SHA384, 0)
    scheme = padding.PSS(mgf=padding.MGF1(SHA384()), salt_length=48)
    key.public_key().verify(signed.signatures[0].raw[:256][::-1], signed.body, scheme, SHA384())


def test_ecdsa_is_deterministic_and_stored_little_endian(
    certificates: dict[str, Certificate], ec_keys: dict[str, ec.EllipticCurvePrivateKey]
) -> None:
    first = sign_bytes(ec_keys["oca"], DSA, b"message")
    assert first == sign_bytes(ec_keys["oca"], DSA, b"message")
    assert not any(first[48:72] + first[120:])


@pytest.mark.parametrize("algorithm", [Algorithm.NONE, Algorithm.ECDH_SHA256, Algorithm.RSA_SHA256])
def test_a_key_signs_only_with_its_algorithms(
    algorithm: Algorithm, certificates: dict[str, Certificate], ec_keys: dict[str, ec.EllipticCurvePrivateKey]
) -> None:
    with pytest.raises(UsageError):
        sign(certificates["cek"], ec_keys["oca"], Usage.OCA, algorithm, 0)
    with pytest.raises(VerificationError):
        verify_bytes(ec_keys["oca"].public_key(), algorithm, b"", bytes(512))


def test_there_are_two_slots(
    certificates: dict[str, Certificate], ec_keys: dict[str, ec.EllipticCurvePrivateKey]
) -> None:
    with pytest.raises(UsageError):
        sign(certificates["cek"], ec_keys["oca"], Usage.OCA, DSA, 2)


def test_either_of_two_matching_slots_is_enough(
    certificates: dict[str, Certificate], ec_keys: dict[str, ec.EllipticCurvePrivateKey]
) -> None:
    wrong = sign(certificates["cek"], ec_keys["pek"], Usage.OCA, DSA, 0)
    both = sign(wrong, ec_keys["oca"], Usage.OCA, DSA, 1)
    both.verify_signed_by(ec_keys["oca"].public_key(), Usage.OCA, DSA)
    both.verify_signed_by(ec_keys["pek"].public_key(), Usage.OCA, DSA)
    with pytest.raises(VerificationError):
        both.verify_signed_by(ec_keys["cek"].public_key(), Usage.OCA, DSA)


def test_every_bit_of_a_signature_counts(
    certificates: dict[str, Certificate], ec_keys: dict[str, ec.EllipticCurvePrivateKey]
) -> None:
    """Padding too: otherwise one signature would have many spellings."""
    body, raw = certificates["oca"].body, certificates["oca"].signatures[0].raw
    public = ec_keys["oca"].public_key()
    verify_bytes(public, DSA, body, raw)
    for bit in range(0, 8 * len(raw), 3):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(VerificationError):
            verify_bytes(public, DSA, body, bytes(changed))


def test_a_point_off_the_curve_is_refused(certificates: dict[str, Certificate]) -> None:
    pubkey = bytearray(certificates["pdh"].pubkey)
    pubkey[4] ^= 1
    with pytest.raises(DecodeError):
        replace(certificates["pdh"], pubkey=bytes(pubkey)).public_key()


@pytest.mark.parametrize("offset", [0, 4 + 60, 4 + 72 + 60])
def test_an_unknown_curve_and_longer_coordinates_are_refused(
    offset: int, certificates: dict[str, Certificate]
) -> None:
    pubkey = bytearray(certificates["pdh"].pubkey)
    pubkey[offset] ^= 0x40
    with pytest.raises(DecodeError):
        replace(certificates["pdh"], pubkey=bytes(pubkey)).public_key()


def test_upstreams_owner_certificates_have_memory_behind_their_key(
    certificates: dict[str, Certificate], ec_keys: dict[str, ec.EllipticCurvePrivateKey]
) -> None:
    """sevctl 0.6.2 does not clear the field: its signature covers it, so it can be taken as it is."""
    clean = certificates["oca"]
    left = clean.pubkey[:148] + bytes(range(1, 256)).ljust(880, b"\x7f")
    signed = sign(replace(clean, pubkey=left), ec_keys["oca"], Usage.OCA, DSA, 0)
    back = Certificate.decode(signed.encode())
    assert back.encode() == signed.encode()
    back.require_canonical()
    back.verify_signed_by(back.verifying_key(), Usage.OCA, DSA)
    assert back.public_key() == ec_keys["oca"].public_key()
    changed = replace(back, pubkey=left[:-1] + b"\0")
    with pytest.raises(VerificationError):
        changed.verify_signed_by(changed.verifying_key(), Usage.OCA, DSA)


@pytest.mark.parametrize("bits", [2048, 4096])
@pytest.mark.parametrize("algorithm", [Algorithm.RSA_SHA256, Algorithm.RSA_SHA384])
def test_an_rsa_key_comes_back_from_its_certificate(bits: int, algorithm: Algorithm) -> None:
    key = rsa.generate_private_key(65537, bits)
    made = sign(make(key.public_key(), Usage.OCA, algorithm), key, Usage.OCA, algorithm, 0)
    back = Certificate.decode(made.encode())
    assert back.verifying_key() == key.public_key()
    assert back.pubkey[:8].hex() == bits.to_bytes(4, "little").hex() + "01000100"
    back.require_canonical()
    back.verify_signed_by(back.verifying_key(), Usage.OCA, algorithm)
    with pytest.raises(DecodeError, match="in place of an elliptic curve one"):
        back.public_key()


def test_a_key_is_of_its_algorithm(ec_keys: dict[str, ec.EllipticCurvePrivateKey]) -> None:
    rsa_key = rsa.generate_private_key(65537, 2048).public_key()
    ec_key = ec_keys["oca"].public_key()
    for key, algorithm in ((rsa_key, DSA), (ec_key, Algorithm.RSA_SHA256), (ec_key, Algorithm.NONE)):
        with pytest.raises(UsageError):
            make(key, Usage.OCA, algorithm)
    with pytest.raises(UsageError):
        make(rsa.generate_private_key(65537, 3072).public_key(), Usage.OCA, Algorithm.RSA_SHA256)
    for key, algorithm in ((rsa_key, Algorithm.RSA_SHA256), (ec_key, DSA)):
        for other in (Algorithm.NONE, DSA if algorithm is not DSA else Algorithm.RSA_SHA384):
            with pytest.raises(DecodeError):
                replace(make(key, Usage.OCA, algorithm), algorithm=other).verifying_key()


# Size, exponent of 2^33, even exponent, modulus one bit short, even modulus, padding behind 2048 bits.
@pytest.mark.parametrize(
    ("offset", "value"), [(0, 1), (4 + 4, 2), (4, 2), (516 + 255, 0x7F), (516, 0), (1027, 1)]
)
def test_impossible_rsa_keys_are_refused(offset: int, value: int) -> None:
    key = rsa.generate_private_key(65537, 2048).public_key()
    made = make(key, Usage.OCA, Algorithm.RSA_SHA256)
    pubkey = bytearray(made.pubkey)
    pubkey[offset] = value
    with pytest.raises(DecodeError):
        replace(made, pubkey=bytes(pubkey)).verifying_key()


def test_algorithms_say_what_they_are() -> None:
    assert {one.name: (one.hash_bits, one.is_rsa, one.signs, one.agrees) for one in Algorithm} == {
        "NONE": (0, False, False, False),
        "RSA_SHA256": (256, True, True, False),
        "ECDSA_SHA256": (256, False, True, False),
        "ECDH_SHA256": (256, False, False, True),
        "RSA_SHA384": (384, True, True, False),
        "ECDSA_SHA384": (384, False, True, False),
        "ECDH_SHA384": (384, False, False, True),
    }


def test_every_bit_of_an_empty_slot_counts(certificates: dict[str, Certificate]) -> None:
    """No signature covers it, so what firmware writes there is the only thing it may hold."""
    data = certificates["oca"].encode()
    Certificate.decode(data).require_canonical()
    for bit in range(8 * 1564, 8 * 2084):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DecodeError):
            Certificate.decode(bytes(changed)).require_canonical()


def test_the_reserved_field_is_kept_but_not_canonical(certificates: dict[str, Certificate]) -> None:
    strange = replace(certificates["oca"], reserved=1)
    assert Certificate.decode(strange.encode()) == strange
    with pytest.raises(DecodeError, match="reserved"):
        strange.require_canonical()


@pytest.mark.parametrize(("offset", "value"), [(0, 2), (8, 0xFF), (12, 0xFF)])
def test_unknown_version_usage_and_algorithm_are_refused(
    offset: int, value: int, certificates: dict[str, Certificate]
) -> None:
    data = bytearray(certificates["pdh"].encode())
    data[offset] = value
    with pytest.raises(DecodeError):
        Certificate.decode(bytes(data))


@pytest.mark.parametrize("size", [0, 1, 1044, 2083, 2085, 4168])
def test_only_the_exact_length_is_a_certificate(size: int) -> None:
    with pytest.raises(DecodeError):
        Certificate.decode(bytes(size))


@given(st.binary(min_size=1044 - 16, max_size=1044 - 16), st.binary(min_size=1040, max_size=1040))
def test_every_byte_survives_a_round_trip(pubkey: bytes, slots: bytes) -> None:
    head = bytes.fromhex("010000000018abcd0310000003000000")
    data = head + pubkey + slots
    assert Certificate.decode(data).encode() == data


@pytest.mark.parametrize("name", ["pdh", "pek", "oca", "cek"])
def test_amds_own_certificates_round_trip(name: str, amd: Path) -> None:
    data = (amd / "naples" / f"{name}.cert").read_bytes()
    found = Certificate.decode(data)
    assert found.encode() == data
    assert found.public_key().curve.name == "secp384r1"
    found.require_canonical()
