# SPDX-License-Identifier: Apache-2.0
"""The launch measurement, and what only a verified launch may do (SEV API, LAUNCH_MEASURE).

``MEASURE = HMAC-SHA256(TIK, 04 | API major | API minor | build | LE32(policy) | launch digest | MNONCE)``

The firmware answers MEASURE (32 bytes) and MNONCE (16). Because the TIK is known to the guest owner and the
firmware only, a matching MEASURE proves which bytes the guest was started with, under which policy and by
which firmware. The launch digest itself is :mod:`sealpod.measure`'s matter.

Order is kept by types, ``Session -> Measuring -> VerifiedLaunch``: a secret packet is made by a
:class:`VerifiedLaunch`, which comes from :meth:`Measuring.verify`. The one other way to it is an owner's word
that the comparison was made elsewhere, and it is called that (:func:`take_owners_word`).
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Final, Self, final

from sealpod.errors import DecodeError, UsageError, VerificationError
from sealpod.secret import SecretBytes
from sealpod.sev.kdf import hmac_sha256
from sealpod.sev.packet import MEASURE_SIZE, Packet, pack
from sealpod.sev.policy import Policy
from sealpod.sev.session import Session, TransportKeys
from sealpod.sev.version import FirmwareVersion

__all__ = [
    "DIGEST_SIZE",
    "MEASUREMENT_SIZE",
    "NONCE_SIZE",
    "FirmwareVersion",
    "Measurement",
    "Measuring",
    "VerifiedLaunch",
    "compute_measurement",
    "take_owners_word",
    "verify_measurement",
]

DIGEST_SIZE: Final = 32
"""Bytes of the launch digest of SEV and SEV-ES."""
NONCE_SIZE: Final = 16
MEASUREMENT_SIZE: Final = MEASURE_SIZE + NONCE_SIZE
"""48 bytes: what LAUNCH_MEASURE and QMP's query-sev-launch-measure answer."""

_CONTEXT: Final = b"\x04"


@dataclass(frozen=True, slots=True)
class Measurement:
    """The firmware's answer to LAUNCH_MEASURE."""

    measure: bytes
    """32 bytes."""
    mnonce: bytes
    """16 bytes, chosen by the firmware."""

    def __post_init__(self) -> None:
        if len(self.measure) != MEASURE_SIZE or len(self.mnonce) != NONCE_SIZE:
            raise DecodeError("a measurement has 32 bytes and a nonce of 16", code="measurement.length")

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """:raise DecodeError: when ``data`` is not 48 bytes."""
        if len(data) != MEASUREMENT_SIZE:
            raise DecodeError(
                f"a launch measurement has {MEASUREMENT_SIZE} bytes, got {len(data)}",
                code="measurement.length",
            )
        return cls(bytes(data[:MEASURE_SIZE]), bytes(data[MEASURE_SIZE:]))

    def encode(self) -> bytes:
        """48 bytes."""
        return self.measure + self.mnonce


def compute_measurement(
    tik: SecretBytes, version: FirmwareVersion, policy: Policy, digest: bytes, mnonce: bytes
) -> bytes:
    """MEASURE, 32 bytes, from the launch digest (32 bytes) and the nonce (16 bytes).

    :raise DecodeError: digest or nonce of another length.
    """
    if len(digest) != DIGEST_SIZE:
        raise DecodeError(f"a launch digest has {DIGEST_SIZE} bytes, got {len(digest)}", code="digest.length")
    if len(mnonce) != NONCE_SIZE:
        raise DecodeError(f"a nonce has {NONCE_SIZE} bytes, got {len(mnonce)}", code="measurement.length")
    return hmac_sha256(tik.reveal(), _CONTEXT + version.encode() + policy.encode() + digest + mnonce)


_VERIFIED: Final = object()


@final
class VerifiedLaunch:
    """A launch whose measurement matched: what a secret can be packed for."""

    __slots__ = ("_keys", "_measure")

    def __init__(self, keys: TransportKeys, measure: bytes, *, proof: object) -> None:
        if proof is not _VERIFIED:
            raise UsageError("a VerifiedLaunch comes from Measuring.verify", code="measurement.unverified")
        self._keys = keys
        self._measure = measure

    def pack(self, table: bytes, *, iv: bytes) -> Packet:
        """The packet that brings ``table`` into this launch; ``iv`` is 16 fresh random bytes.

        :raise UsageError: a size the firmware would refuse.
        """
        return pack(self._keys, table, self._measure, iv=iv)


@final
class Measuring:
    """A session in use: its guest is being launched. It can check a measurement and nothing else."""

    __slots__ = ("_keys", "_policy")

    def __init__(self, keys: TransportKeys, policy: Policy) -> None:
        self._keys = keys
        self._policy = policy

    @classmethod
    def of(cls, session: Session) -> Measuring:
        """The launch of ``session``."""
        return cls(session.keys, session.policy)

    def verify(self, version: FirmwareVersion, digest: bytes, measurement: Measurement) -> VerifiedLaunch:
        """Check that the guest of this session was started from what ``digest`` stands for.

        Whether ``digest`` and ``version`` are ones the owner accepts is the caller's decision; this proves
        that they are true.

        :raise VerificationError: code ``measurement.mismatch``.
        :raise DecodeError: a digest of another length.
        """
        expected = compute_measurement(self._keys.tik, version, self._policy, digest, measurement.mnonce)
        if not hmac.compare_digest(expected, measurement.measure):
            raise VerificationError(
                "the launch measurement does not match",
                code="measurement.mismatch",
                remedy="compare firmware, kernel, initrd, command line, policy and firmware version",
            )
        return VerifiedLaunch(self._keys, measurement.measure, proof=_VERIFIED)


def verify_measurement(
    keys: TransportKeys,
    policy: Policy,
    version: FirmwareVersion,
    digest: bytes,
    measurement: Measurement,
) -> VerifiedLaunch:
    """:meth:`Measuring.verify` for keys and policy kept since the session was made.

    ``policy`` must be the session's own, never one the host claims.
    """
    return Measuring(keys, policy).verify(version, digest, measurement)


def take_owners_word(keys: TransportKeys, measure: bytes) -> VerifiedLaunch:
    """For an owner who says that he compared ``measure`` (32 bytes) himself.

    ``sealpod sev secret build`` has sevctl's arguments, which hold nothing to compare it with. Nothing that
    decides for others may call this.

    :raise DecodeError: a measurement of another length.
    """
    if len(measure) != MEASURE_SIZE:
        raise DecodeError(f"a measurement has {MEASURE_SIZE} bytes", code="measurement.length")
    return VerifiedLaunch(keys, measure, proof=_VERIFIED)
