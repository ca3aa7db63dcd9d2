# SPDX-License-Identifier: Apache-2.0
"""Vectors: tests/vectors/LEDGER.md, "sev"."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError, UsageError, VerificationError
from sealpod.secret import SecretBytes
from sealpod.sev.measurement import (
    FirmwareVersion,
    Measurement,
    VerifiedLaunch,
    compute_measurement,
    verify_measurement,
)
from sealpod.sev.packet import unpack
from sealpod.sev.policy import Policy
from sealpod.sev.session import TransportKeys

KEYS = TransportKeys(SecretBytes(bytes(range(0x10, 0x20))), SecretBytes(bytes(range(0x20, 0x30))))
VERSION = FirmwareVersion(0, 24, 15)
POLICY = Policy(3)
DIGEST = hashlib.sha256(b"sev-test-vector firmware").digest()
REPLY = base64.b64decode("qUByd8i7ix7fScv3O7h5WgC7tfwPfgNKpCd+z8OyYeBQUVJTVFVWV1hZWltcXV5f")


def test_deterministic_set() -> None:
    measure = compute_measurement(KEYS.tik, VERSION, POLICY, DIGEST, bytes(range(0x50, 0x60)))
    assert measure.hex() == "a9407277c8bb8b1edf49cbf73bb8795a00bbb5fc0f7e034aa4277ecfc3b261e0"
    assert Measurement(measure, bytes(range(0x50, 0x60))).encode() == REPLY


def test_virtee_sev() -> None:
    tik = SecretBytes(bytes.fromhex("66320db73158a35a255d051758e95ed4"))
    mnonce = bytes.fromhex("4fbe0bedbad6c86ae8f68971d103e554")
    measure = compute_measurement(
        tik, FirmwareVersion(0, 18, 15), Policy(0), hashlib.sha256(b"").digest(), mnonce
    )
    assert measure.hex() == "6faab2daae389bcd3405a05d6cafe33c0414f7bedd0bae19ba5f38b7fd1664ea"


def test_sevctl() -> None:
    tik = SecretBytes(bytes.fromhex("3569cf61a32a602b87185ac6e0f55913"))
    digest = base64.b64decode("xkvRAfyaSizgonxAjZIAkR8TmolUabBKQKb6KJCDDSM=")
    mnonce = base64.b64decode("wxP6tRHCFrFQWxsuqZA8QA==")
    measure = compute_measurement(tik, FirmwareVersion(1, 40, 40), Policy(3), digest, mnonce)
    expected = "lswbxWxI9gckya16JQvdFtpYmNO4b+3inAPpqsgoBI7DE/q1EcIWsVBbGy6pkDxA"
    assert base64.b64encode(Measurement(measure, mnonce).encode()).decode() == expected


def test_a_verified_launch_packs_for_itself() -> None:
    measurement = Measurement.decode(REPLY)
    launch = verify_measurement(KEYS, POLICY, VERSION, DIGEST, measurement)
    packet = launch.pack(b"s" * 32, iv=bytes(16))
    assert unpack(KEYS, packet.header, packet.data, measurement.measure).reveal() == b"s" * 32
    assert "0x" in repr(launch) or "VerifiedLaunch" in repr(launch)
    assert KEYS.tek.reveal().hex() not in repr(launch)


def test_only_verification_makes_a_verified_launch() -> None:
    with pytest.raises(UsageError):
        VerifiedLaunch(KEYS, bytes(32), proof=None)


def refused(
    policy: Policy = POLICY,
    version: FirmwareVersion = VERSION,
    digest: bytes = DIGEST,
    reply: bytes = REPLY,
    keys: TransportKeys = KEYS,
) -> None:
    with pytest.raises(VerificationError) as caught:
        verify_measurement(keys, policy, version, digest, Measurement.decode(reply))
    assert caught.value.code == "measurement.mismatch"


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_every_bit_flip_is_refused() -> None:
    for bit in range(8 * len(REPLY)):
        refused(reply=flipped(REPLY, bit))
    for bit in range(8 * len(DIGEST)):
        refused(digest=flipped(DIGEST, bit))
    for bit in range(32):
        refused(policy=Policy(POLICY.value ^ 1 << bit))
    for bit in range(24):
        refused(version=FirmwareVersion(*flipped(VERSION.encode(), bit)))
    for bit in range(128):
        refused(keys=TransportKeys(KEYS.tek, SecretBytes(flipped(KEYS.tik.reveal(), bit))))


@pytest.mark.parametrize("size", [0, 32, 47, 49])
def test_another_length_is_no_measurement(size: int) -> None:
    with pytest.raises(DecodeError):
        Measurement.decode(bytes(size))


@pytest.mark.parametrize("size", [0, 31, 33, 48])
def test_another_digest_length_is_refused(size: int) -> None:
    with pytest.raises(DecodeError):
        verify_measurement(KEYS, POLICY, VERSION, bytes(size), Measurement.decode(REPLY))


def test_parts_have_their_length() -> None:
    with pytest.raises(DecodeError):
        Measurement(bytes(31), bytes(17))
    with pytest.raises(DecodeError):
        compute_measurement(KEYS.tik, VERSION, POLICY, DIGEST, bytes(15))


@given(st.binary(min_size=48, max_size=48))
def test_round_trip(data: bytes) -> None:
    assert Measurement.decode(data).encode() == data
