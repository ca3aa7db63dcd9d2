# SPDX-License-Identifier: Apache-2.0
"""How SEV firmware verifies a certificate, with the status it answers (AMD's firmware, certificate check).

:meth:`sealpod.sev.cert.Certificate.verify_signed_by` answers an owner's question: did this key sign it? The
firmware asks more, and in an order callers can see. For a certificate and its issuer:

1. a slot with a usage but no algorithm, or the reverse: BAD_SIGNATURE;
2. no slot names the issuer's usage and algorithm: INVALID_CERTIFICATE;
3. a slot that does, and does not verify: BAD_SIGNATURE;
4. another version, an unknown usage or algorithm, or a key that is none: INVALID_CERTIFICATE;
5. the issuer's usage may not sign this usage: INVALID_CERTIFICATE.

The first three look at bytes, before anything says that they are a certificate.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from sealpod.errors import DecodeError, VerificationError
from sealpod.sev.ca import CaCertificate
from sealpod.sev.cert import BODY_SIZE, SIZE, Certificate
from sealpod.sev.signature import SIGNATURE_SIZE, Algorithm, Usage, VerifyingKey, verify_bytes
from sealpod.sev.status import Status

ISSUERS: Final[Mapping[Usage, tuple[Usage, ...]]] = MappingProxyType(
    {
        Usage.OCA: (Usage.OCA,),
        Usage.PEK: (Usage.OCA, Usage.CEK),
        Usage.PDH: (Usage.PEK,),
        Usage.CEK: (Usage.ASK,),
    }
)
"""Who may sign whom."""

_SLOT = struct.Struct(f"<II{SIGNATURE_SIZE}s")


def verify_as_firmware(data: bytes, issuer: bytes | CaCertificate) -> Certificate:
    """The certificate of 2084 bytes, verified under its issuer's in the five steps above.

    An issuer that is itself no certificate shows in step 2. A certificate may be its own issuer.

    :raise FirmwareError: INVALID_LENGTH, BAD_SIGNATURE or INVALID_CERTIFICATE.
    """
    if len(data) != SIZE:
        raise Status.INVALID_LENGTH.error(f"a certificate has {SIZE} bytes, got {len(data)}")
    slots = [_SLOT.unpack_from(data, BODY_SIZE + number * _SLOT.size) for number in (0, 1)]
    if any((usage == Usage.INVALID) != (algorithm == Algorithm.NONE) for usage, algorithm, _ in slots):  # (1)
        raise Status.BAD_SIGNATURE.error("a signature slot is half empty")
    signer = issuer if isinstance(issuer, CaCertificate) else _decoded(issuer)
    wanted = (signer.usage, signer.algorithm)
    found = [raw for usage, algorithm, raw in slots if (usage, algorithm) == wanted]
    if not found:  # (2)
        raise Status.INVALID_CERTIFICATE.error(f"no signature of the {signer.usage.name}")
    for raw in found:  # (3)
        try:
            verify_bytes(_key(signer), signer.algorithm, data[:BODY_SIZE], raw)
        except VerificationError as error:
            raise Status.BAD_SIGNATURE.error(f"of the {signer.usage.name}: {error.message}") from error
    certificate = _decoded(data)  # (4)
    _key(certificate)
    if signer.usage not in ISSUERS.get(certificate.usage, ()):  # (5)
        raise Status.INVALID_CERTIFICATE.error(
            f"a {certificate.usage.name} is not for an {signer.usage.name} to sign"
        )
    return certificate


def _decoded(data: bytes) -> Certificate:
    try:
        return Certificate.decode(data)
    except DecodeError as error:
        raise Status.INVALID_CERTIFICATE.error(error.message) from error


def _key(certificate: Certificate | CaCertificate) -> VerifyingKey:
    if isinstance(certificate, CaCertificate):
        return certificate.public_key()
    try:
        return certificate.verifying_key()
    except DecodeError as error:
        raise Status.INVALID_CERTIFICATE.error(error.message) from error
