# SPDX-License-Identifier: Apache-2.0
"""The commands about the platform's identity: PEK_GEN, PEK_CSR, PEK_CERT_IMPORT, PDH_GEN (SEV API 0.24).

Each ends in the persistent store before it counts: an identity that could not be saved is not used either.
The rules for an imported certificate are those of AMD's firmware, and so is their order.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sealpod.platform.model.firmware import BufferTooSmall, PlatformState
from sealpod.platform.model.identity import Authority, Identity, KeyPair, endorse, make_identity, make_pdh
from sealpod.sev import cert
from sealpod.sev.firmwarerule import verify_as_firmware
from sealpod.sev.status import Status

if TYPE_CHECKING:
    from sealpod.platform.model.firmware import Firmware

_EMPTY: Final = cert.Signature()


def pek_gen(firmware: Firmware) -> None:
    """PEK_GEN (005): a new OCA of the platform's own, PEK and PDH."""
    firmware.require(PlatformState.INIT)
    firmware.save(make_identity(firmware.chip, firmware.rng))


def pek_csr(firmware: Firmware, *, length: int) -> bytes:
    """PEK_CSR (006): the PEK's certificate with both signature slots empty."""
    firmware.require(PlatformState.INIT, PlatformState.WORKING)
    if length < cert.SIZE:
        raise BufferTooSmall({"length": cert.SIZE})
    firmware.refresh()
    return replace(firmware.identity.pek.certificate, signatures=(_EMPTY, _EMPTY)).encode()


def pek_cert_import(firmware: Firmware, *, pek: bytes, oca: bytes) -> None:
    """PEK_CERT_IMPORT (007): the platform becomes the property of ``oca``, which signed its PEK."""
    # (1) platform state, (2) ownership, (3) lengths
    firmware.require(PlatformState.INIT)
    firmware.refresh()
    identity = firmware.identity
    if identity.owned:
        raise Status.ALREADY_OWNED.error("the platform has an outside owner", remedy="reset it first")
    for name, data in (("PEK", pek), ("OCA", oca)):
        if len(data) != cert.SIZE:
            raise Status.INVALID_LENGTH.error(f"the {name} has {len(data)} bytes, not {cert.SIZE}")
    # (4) the OCA by itself, the PEK by the OCA
    authority = _verified(oca, oca, cert.Usage.OCA)
    signed = _verified(pek, oca, cert.Usage.PEK)
    # (5) it is this platform's PEK
    if signed.body != identity.pek.certificate.body:
        raise Status.INVALID_CERTIFICATE.error("the PEK is not this platform's")
    # (6) the chip's endorsement goes into the slot that is left, and a new PDH under it
    pair = KeyPair(identity.pek.key, endorse(signed, firmware.chip, _free_slot(signed)))
    firmware.save(Identity(Authority(None, authority), pair, make_pdh(pair, firmware.rng)))


def pdh_gen(firmware: Firmware) -> None:
    """PDH_GEN (009): a new PDH under the same PEK."""
    firmware.require(PlatformState.INIT, PlatformState.WORKING)
    firmware.refresh()
    identity = firmware.identity
    firmware.save(replace(identity, pdh=make_pdh(identity.pek, firmware.rng)))


def _verified(data: bytes, issuer: bytes, usage: cert.Usage) -> cert.Certificate:
    """``data`` as a certificate of ``usage`` that the OCA ``issuer`` signed, by the firmware's rules."""
    certificate = verify_as_firmware(data, issuer)
    if certificate.usage is not usage:
        raise Status.INVALID_CERTIFICATE.error(
            f"a certificate for {certificate.usage.name} in place of {usage.name}"
        )
    return certificate


def _free_slot(pek: cert.Certificate) -> int:
    for number, slot in enumerate(pek.signatures):
        if (slot.usage, slot.algorithm) == (_EMPTY.usage, _EMPTY.algorithm):
            return number
    raise Status.INVALID_CERTIFICATE.error("the PEK has no free signature slot for the chip's endorsement")
