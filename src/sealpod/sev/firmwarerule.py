# SPDX-License-Identifier: Apache-2.0
"""How SEV firmware verifies a certificate, with the status it answers (AMD's firmware, certificate check).

:meth:`sealpod.sev.cert.Certificate.verify_signed_by` answers an owner's question: did this key sign it? The
firmware asks more, and in an order callers can see. For a certificate and its issuer:

1. a slot with a usage but no algorithm, or the reverse: BAD_SIGNATURE;
2. no slot names the issuer's usage and algorithm: INVALID_CERTIFICATE;
3. a slot that does, and does not verify: BAD_SIGNATURE;
4. the certificate's own key is none, as a point off its curve: INVALID_CERTIFICATE;
5. the issuer's usage may not sign this usage: INVALID_CERTIFICATE.

The version is checked by decoding, before all of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from sealpod.errors import DecodeError, VerificationError
from sealpod.sev.ca import CaCertificate
from sealpod.sev.cert import Certificate, Signature
from sealpod.sev.signature import Algorithm, Usage, VerifyingKey, verify_bytes
from sealpod.sev.status import Status

ISSUERS: Final[Mapping[Usage, tuple[Usage, ...]]] = MappingProxyType(
    {
        Usage.OCA: (Usage.OCA,),
        Usage.PEK: (Usage.OCA, Usage.CEK),
        Usage.PDH: (Usage.PEK,),
        Usage.CEK: (Usage.ASK,),
        Usage.ASK: (Usage.ARK,),
        Usage.ARK: (Usage.ARK,),
    }
)
"""Who may sign whom."""


def verify_as_firmware(certificate: Certificate, issuer: Certificate | CaCertificate) -> None:
    """Verify ``certificate`` under ``issuer`` in the five steps above. Its slots' data is never trusted.

    :raise FirmwareError: BAD_SIGNATURE or INVALID_CERTIFICATE.
    """
    name = certificate.usage.name
    if any(_half_valid(slot) for slot in certificate.signatures):  # (1)
        raise Status.BAD_SIGNATURE.error(f"a signature slot of the {name} is half empty")
    wanted = (issuer.usage, issuer.algorithm)
    slots = [slot for slot in certificate.signatures if (slot.usage, slot.algorithm) == wanted]
    if not slots:  # (2)
        raise Status.INVALID_CERTIFICATE.error(f"the {name} has no signature of an {issuer.usage.name}")
    key = _issuer_key(issuer)
    for slot in slots:  # (3)
        try:
            verify_bytes(key, slot.algorithm, certificate.body, slot.raw)
        except VerificationError as error:
            raise Status.BAD_SIGNATURE.error(f"{issuer.usage.name} over {name}: {error.message}") from error
    try:  # (4)
        certificate.verifying_key()
    except DecodeError as error:
        raise Status.INVALID_CERTIFICATE.error(error.message) from error
    if issuer.usage not in ISSUERS.get(certificate.usage, ()):  # (5)
        raise Status.INVALID_CERTIFICATE.error(f"a {name} is not for an {issuer.usage.name} to sign")


def _half_valid(slot: Signature) -> bool:
    return (slot.usage == Usage.INVALID) != (slot.algorithm == Algorithm.NONE)


def _issuer_key(issuer: Certificate | CaCertificate) -> VerifyingKey:
    if isinstance(issuer, CaCertificate):
        return issuer.public_key()
    try:
        return issuer.verifying_key()
    except DecodeError as error:
        raise Status.INVALID_CERTIFICATE.error(error.message) from error
