# SPDX-License-Identifier: Apache-2.0
"""Vectors: tests/vectors/LEDGER.md, "sev"."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError, UsageError, VerificationError
from sealpod.sev.cert import Algorithm, Certificate, Usage, make
from sealpod.sev.policy import Policy
from sealpod.sev.report import SIGNED_SIZE, SIZE, Report, make_report, verify_report

DIGEST = hashlib.sha256(b"sev-test-vector firmware").digest()
MNONCE = bytes(range(16))


@pytest.fixture(scope="module")
def report(ec_keys: dict[str, ec.EllipticCurvePrivateKey]) -> Report:
    return make_report(MNONCE, DIGEST, Policy(3), ec_keys["pek"])


def refusal(report: Report, pek: Certificate, **expected: object) -> str:
    with pytest.raises(VerificationError) as caught:
        verify_report(report, pek, **expected)  # type: ignore[arg-type]
    return caught.value.code


def test_deterministic_set(report: Report) -> None:
    data = report.encode()
    assert (len(data), SIGNED_SIZE) == (208, 52)
    assert hashlib.sha256(data).hexdigest() == (
        "f2fe2c9d4fed951fd83385e92410bfd5f90df4e1c1df1741199dbf86626a8949"
    )
    r, s = report.signature[:72][::-1].hex(), report.signature[72:][::-1].hex()
    assert r.removeprefix("00" * 24) == (
        "0060f84b22481a516c208574f8ce41b23beeb3341942554417b4ec754646dabb5772f6e5bb25a06b719f0f69ef9fad46"
    )
    assert s.removeprefix("00" * 24) == (
        "8b9741e12687743a33deb1dcf511a699568bb6bfbe39ab466666cf4e8f676c838fbc3cb6eda35312955cee15c7cb4a8d"
    )


def test_upstream_bug_the_verifier_verifies(report: Report, certificates: dict[str, Certificate]) -> None:
    """A widely used verifier read 4 bytes of digest, did not hash the message and dropped the answer."""
    pek = certificates["pek"]
    decoded = Report.decode(report.encode())
    assert decoded.digest == DIGEST
    verify_report(decoded, pek)
    verify_report(decoded, pek, digest=DIGEST, mnonce=MNONCE, policy=Policy(3))
    assert refusal(replace(decoded, digest=bytes(32)), pek) == "report.signature"


def test_every_bit_flip_is_refused(report: Report, certificates: dict[str, Certificate]) -> None:
    data = report.encode()
    for bit in range(8 * SIZE):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((DecodeError, VerificationError)):
            verify_report(Report.decode(bytes(changed)), certificates["pek"])


@pytest.mark.parametrize("size", [0, 4, 52, 207, 209])
def test_another_length_is_no_report(size: int) -> None:
    with pytest.raises(DecodeError):
        Report.decode(bytes(size))


def test_only_a_pek_signs_reports(
    report: Report, certificates: dict[str, Certificate], ec_keys: dict[str, ec.EllipticCurvePrivateKey]
) -> None:
    for name in ("oca", "cek", "pdh"):
        assert refusal(report, certificates[name]) == "report.pek"
    stranger = make(ec_keys["godh"].public_key(), Usage.PEK, Algorithm.ECDSA_SHA256)
    assert refusal(report, stranger) == "report.signature"
    broken = replace(certificates["pek"], pubkey=bytes(1028))
    assert refusal(report, broken) == "report.signature"


def test_what_is_expected_is_compared(report: Report, certificates: dict[str, Certificate]) -> None:
    pek = certificates["pek"]
    for expected in ({"digest": bytes(32)}, {"mnonce": bytes(16)}, {"policy": Policy(1)}, {"mnonce": b""}):
        assert refusal(report, pek, **expected) == "report.mismatch"


def test_parts_have_their_length(ec_keys: dict[str, ec.EllipticCurvePrivateKey]) -> None:
    for mnonce, digest in ((bytes(15), DIGEST), (MNONCE, bytes(48))):
        with pytest.raises(UsageError):
            make_report(mnonce, digest, Policy(0), ec_keys["pek"])


@given(
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=32, max_size=32),
    st.integers(0, 0xFFFFFFFF),
    st.binary(min_size=144, max_size=144),
)
def test_round_trip(mnonce: bytes, digest: bytes, policy: int, signature: bytes) -> None:
    report = Report(mnonce, digest, Policy(policy), signature)
    assert Report.decode(report.encode()) == report
