# SPDX-License-Identifier: Apache-2.0
"""Vectors: tests/vectors/LEDGER.md, "sev"."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError, FirmwareError, UsageError
from sealpod.secret import SecretBytes
from sealpod.sev.cert import Algorithm, Certificate, Signature, Usage, make
from sealpod.sev.measurement import FirmwareVersion
from sealpod.sev.policy import Policy
from sealpod.sev.session import Session, TransportKeys, open_session
from sealpod.sev.status import Status

TEK, TIK = bytes(range(0x10, 0x20)), bytes(range(0x20, 0x30))
BLOB = (
    "MDEyMzQ1Njc4OTo7PD0+PyJwVR+0YXJ3ugWNVJX2kOreGqVVOi4HQbd4QFGRRFkDQEFCQ0RFRkdISUpLTE1OT1dmAhVNtAgIF+/IVpNd"
    "O3pECK77qiGOQYXarzqGOzLu8ZgjwUrN+7iRTkUXVsziZlq9gPdhpxG5P/Ifn1juoSM="
)

Keys = dict[str, ec.EllipticCurvePrivateKey]


def fixed_rng() -> Callable[[int], bytes]:
    """TEK 10.., TIK 20.., NONCE 30.., WRAP_IV 40.."""
    pieces = iter(bytes(range(start, start + 16)) for start in (0x10, 0x20, 0x30, 0x40))

    def rng(size: int) -> bytes:
        piece = next(pieces)
        assert len(piece) == size
        return piece

    return rng


@pytest.fixture(scope="session")
def session(certificates: dict[str, Certificate], ec_keys: Keys) -> Session:
    return Session.create(certificates["pdh"], Policy(3), rng=fixed_rng(), godh_key=ec_keys["godh"])


def status_of(call: Callable[[], object]) -> Status:
    with pytest.raises(FirmwareError) as caught:
        call()
    return Status(caught.value.status)


def test_deterministic_session(session: Session) -> None:
    assert base64.b64encode(session.blob).decode() == BLOB
    godh = session.godh.encode()
    assert (
        hashlib.sha256(godh).hexdigest() == "588186d22add16a1a1cf819e1789fa53677e33b7190addc92c7c6ba75d71b902"
    )
    assert base64.b64encode(godh).startswith(b"AQAAAAAAAAADEAAAAwAAAAIAAA")
    assert session.keys == TransportKeys(SecretBytes(TEK), SecretBytes(TIK))


def test_upstream_bug_a_minimum_version_stays_in_the_policy_mac(
    certificates: dict[str, Certificate], ec_keys: Keys
) -> None:
    policy = Policy(0x18000003)
    made = Session.create(certificates["pdh"], policy, rng=fixed_rng(), godh_key=ec_keys["godh"])
    assert made.blob[96:].hex() == "f74dddbbadb297a27b0d27603d5d23599a570aa1f00e571f770ea512ebd63119"
    assert open_session(ec_keys["pdh"], made.godh, made.blob, policy) == made.keys


def test_the_firmware_unwraps_what_the_owner_wrapped(session: Session, ec_keys: Keys) -> None:
    assert open_session(ec_keys["pdh"], session.godh, session.blob, Policy(3)) == session.keys


@given(st.integers(0, 0xFFFFFFFF).map(lambda word: word & ~0xFFC0))
def test_round_trip_with_fresh_keys(value: int) -> None:
    pdh_key = ec.generate_private_key(ec.SECP384R1())
    pdh = make(pdh_key.public_key(), Usage.PDH, Algorithm.ECDH_SHA256)
    made = Session.create(pdh, Policy(value), rng=os.urandom)
    godh = Certificate.decode(made.godh.encode())
    assert open_session(pdh_key, godh, made.blob, Policy(value)) == made.keys


def test_randomness_is_asked_for_in_a_fixed_order(certificates: dict[str, Certificate]) -> None:
    asked: list[int] = []

    def rng(size: int) -> bytes:
        asked.append(size)
        return bytes([len(asked)]) * size

    made = Session.create(certificates["pdh"], Policy(0), rng=rng)
    assert asked == [16, 16, 16, 16, 56]
    assert made.keys.tek.reveal() == b"\1" * 16
    assert made.blob[:16] == b"\3" * 16


@pytest.mark.parametrize("seed", [bytes(56), b"\xff" * 56])
def test_any_seed_makes_a_valid_owner_key(seed: bytes, certificates: dict[str, Certificate]) -> None:
    made = Session.create(certificates["pdh"], Policy(0), rng=lambda size: seed[:size])
    assert made.godh.public_key().curve.name == "secp384r1"


def test_every_bit_flip_of_the_session_is_a_bad_measurement(session: Session, ec_keys: Keys) -> None:
    for bit in range(8 * len(session.blob)):
        changed = bytearray(session.blob)
        changed[bit // 8] ^= 1 << bit % 8
        status = status_of(lambda c=changed: open_session(ec_keys["pdh"], session.godh, bytes(c), Policy(3)))  # type: ignore[misc]
        assert status is Status.BAD_MEASUREMENT, bit


@pytest.mark.parametrize("size", [0, 16, 127, 129])
def test_another_length_is_refused_first(size: int, session: Session, ec_keys: Keys) -> None:
    broken = replace(session.godh, pubkey=bytes(1028))
    assert (
        status_of(lambda: open_session(ec_keys["pdh"], broken, bytes(size), Policy(3)))
        is Status.INVALID_LENGTH
    )


def test_another_policy_is_a_bad_measurement(session: Session, ec_keys: Keys) -> None:
    for bit in range(32):
        policy = Policy(3 ^ 1 << bit)
        status = status_of(lambda p=policy: open_session(ec_keys["pdh"], session.godh, session.blob, p))  # type: ignore[misc]
        assert status is Status.BAD_MEASUREMENT


def test_another_platform_cannot_open_it(session: Session, ec_keys: Keys) -> None:
    status = status_of(lambda: open_session(ec_keys["pek"], session.godh, session.blob, Policy(3)))
    assert status is Status.BAD_MEASUREMENT


def test_owner_certificates_the_firmware_refuses(session: Session, ec_keys: Keys) -> None:
    p256 = make(ec.generate_private_key(ec.SECP256R1()).public_key(), Usage.PDH, Algorithm.ECDH_SHA256)
    off_curve = bytearray(session.godh.pubkey)
    off_curve[4] ^= 1
    for godh in (
        replace(session.godh, usage=Usage.PEK),
        replace(session.godh, algorithm=Algorithm.ECDSA_SHA256),
        replace(session.godh, algorithm=Algorithm.ECDH_SHA384),
        replace(session.godh, pubkey=bytes(off_curve)),
        p256,
    ):
        status = status_of(lambda g=godh: open_session(ec_keys["pdh"], g, session.blob, Policy(3)))  # type: ignore[misc]
        assert status is Status.INVALID_CERTIFICATE


def test_the_slots_of_the_owner_certificate_are_not_looked_at(session: Session, ec_keys: Keys) -> None:
    signed = replace(session.godh, signatures=(Signature(Usage.PEK, 7, b"\xff" * 512), Signature(9, 9)))
    assert open_session(ec_keys["pdh"], signed, session.blob, Policy(3)) == session.keys


@pytest.mark.parametrize(
    ("value", "version"),
    [(0x19000000, FirmwareVersion(0, 24, 0)), (0x40, None), (0x8000, FirmwareVersion(0, 24, 0))],
)
def test_policies_the_firmware_refuses(
    value: int, version: FirmwareVersion | None, certificates: dict[str, Certificate], ec_keys: Keys
) -> None:
    policy = Policy(value)
    made = Session.create(certificates["pdh"], policy, rng=os.urandom)
    status = status_of(lambda: open_session(ec_keys["pdh"], made.godh, made.blob, policy, version=version))
    assert status is Status.POLICY_FAILURE


def test_a_session_needs_a_p384_key_agreement_key(certificates: dict[str, Certificate]) -> None:
    p256 = make(ec.generate_private_key(ec.SECP256R1()).public_key(), Usage.PDH, Algorithm.ECDH_SHA256)
    for pdh in (p256, certificates["pek"], replace(certificates["pdh"], pubkey=bytes(1028))):
        with pytest.raises(DecodeError):
            Session.create(pdh, Policy(0), rng=os.urandom)


def test_keys_do_not_show_and_have_their_size(session: Session) -> None:
    assert TEK.hex() not in repr(session)
    assert "SecretBytes(16 bytes)" in repr(session.keys)
    with pytest.raises(UsageError):
        TransportKeys(SecretBytes(bytes(15)), SecretBytes(bytes(16)))
