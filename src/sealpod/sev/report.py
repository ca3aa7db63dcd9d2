# SPDX-License-Identifier: Apache-2.0
"""The attestation report of SEV and SEV-ES guests, the "legacy" one (SEV API, ATTESTATION).

208 bytes, little-endian::

    off   len  field
    0x00   16  MNONCE, the caller's
    0x10   32  LAUNCH_DIGEST
    0x30    4  POLICY
    0x34    4  SIG_USAGE, 0x1002 (PEK)
    0x38    4  SIG_ALGO, 0x0002 (ECDSA with SHA-256)
    0x3C    4  reserved
    0x40  144  SIGNATURE: R and S, 72 bytes each

The PEK signs bytes 0x00 to 0x33. A report says what a running guest was started from; unlike a launch
measurement it needs no session, and it does not say that this guest is the one the reader talks to.

A widely used verifier reads a digest of 4 bytes, does not hash the message and drops the answer, so that it
accepts everything or nothing. Here a report that does not verify is an error.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric import ec

from sealpod.errors import DecodeError, UsageError, VerificationError
from sealpod.sev.cert import Certificate
from sealpod.sev.policy import Policy
from sealpod.sev.signature import ECDSA_SIZE, SIGNATURE_SIZE, Algorithm, Usage, sign_bytes, verify_bytes

NONCE_SIZE: Final = 16
DIGEST_SIZE: Final = 32

_BODY = struct.Struct(f"<{NONCE_SIZE}s{DIGEST_SIZE}sI")
_TAIL = struct.Struct(f"<III{ECDSA_SIZE}s")
SIGNED_SIZE: Final = _BODY.size
"""52 bytes."""
SIZE: Final = SIGNED_SIZE + _TAIL.size
"""208 bytes."""


@dataclass(frozen=True, slots=True)
class Report:
    """A decoded report, not verified."""

    mnonce: bytes
    """16 bytes, chosen by who asked for the report."""
    digest: bytes
    """The launch digest, 32 bytes."""
    policy: Policy
    signature: bytes
    """R and S as stored: 144 bytes."""

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """A report from exactly 208 bytes.

        :raise DecodeError: another length, or a signature by another usage or algorithm than firmware uses.
        """
        if len(data) != SIZE:
            raise _malformed(f"an attestation report has {SIZE} bytes, got {len(data)}")
        mnonce, digest, policy = _BODY.unpack_from(data)
        usage, algorithm, reserved, signature = _TAIL.unpack_from(data, SIGNED_SIZE)
        if (usage, algorithm) != (Usage.PEK, Algorithm.ECDSA_SHA256):
            raise _malformed(f"not signed by a PEK: usage {usage:#06x}, algorithm {algorithm:#06x}")
        if reserved:
            raise _malformed("an attestation report's reserved bytes are not zero")
        return cls(mnonce, digest, Policy(policy), signature)

    def encode(self) -> bytes:
        """208 bytes."""
        return self.body + _TAIL.pack(Usage.PEK, Algorithm.ECDSA_SHA256, 0, self.signature)

    @property
    def body(self) -> bytes:
        """The 52 signed bytes."""
        return _BODY.pack(self.mnonce, self.digest, self.policy.value)


def make_report(mnonce: bytes, digest: bytes, policy: Policy, pek_key: ec.EllipticCurvePrivateKey) -> Report:
    """The firmware's side: a report signed by the PEK's key, deterministically (RFC 6979).

    :raise UsageError: a nonce or digest of another length.
    """
    if len(mnonce) != NONCE_SIZE or len(digest) != DIGEST_SIZE:
        raise UsageError("a report has a nonce of 16 and a digest of 32 bytes", code="report.length")
    body = _BODY.pack(mnonce, digest, policy.value)
    signature = sign_bytes(pek_key, Algorithm.ECDSA_SHA256, body)[:ECDSA_SIZE]
    return Report(mnonce, digest, policy, signature)


def verify_report(
    report: Report,
    pek: Certificate,
    *,
    digest: bytes | None = None,
    mnonce: bytes | None = None,
    policy: Policy | None = None,
) -> None:
    """Verify a report under a PEK, whose own chain is for the caller to verify first.

    1. the certificate is a PEK that signs with ECDSA and SHA-256; 2. it signed the report; 3. nonce, digest
    and policy are the expected ones, as far as given. Without a nonce of the caller's a report may be old.

    :raise VerificationError: code ``report.pek``, ``report.signature`` or ``report.mismatch``.
    """
    if (pek.usage, pek.algorithm) != (Usage.PEK, Algorithm.ECDSA_SHA256):  # (1)
        raise VerificationError("the certificate is not a PEK", code="report.pek")
    try:  # (2)
        raw = report.signature.ljust(SIGNATURE_SIZE, b"\0")
        verify_bytes(pek.verifying_key(), pek.algorithm, report.body, raw)
    except (VerificationError, DecodeError) as error:
        raise VerificationError(
            f"PEK does not sign the attestation report: {error.message}", code="report.signature"
        ) from error
    expected = (("nonce", mnonce, report.mnonce), ("launch digest", digest, report.digest))
    for name, wanted, found in expected:  # (3)
        if wanted is not None and not hmac.compare_digest(wanted, found):
            raise _mismatch(name)
    if policy is not None and policy != report.policy:
        raise _mismatch("policy")


def _mismatch(name: str) -> VerificationError:
    return VerificationError(f"the attestation report has another {name}", code="report.mismatch")


def _malformed(message: str) -> DecodeError:
    return DecodeError(message, code="report.malformed")
