# SPDX-License-Identifier: Apache-2.0
"""The forms a platform's certificate chain has (SEV API, appendix C; sevctl's files).

Without any framing; what follows a chain is not looked at:

    PDH_CERT_EXPORT                PEK, OCA, CEK beside the PDH; the CEK is unsigned      6252 + 2084
    :class:`PlatformChain`         PDH, PEK, OCA, CEK as AMD signed it                    8336
    :class:`Chain`                 the same, ASK, ARK: Naples 10000, later ones           11536

``sevctl export`` writes the second, ``sevctl export --full`` and the key broker's protocol have the third.

Signatures cover neither the slots of a certificate nor one another. So decoding insists on what firmware
writes there, and no byte of a chain can be changed without being noticed. What a chain proves is
:mod:`sealpod.sev.chain`'s matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from sealpod.errors import DecodeError, VerificationError
from sealpod.sev import cert
from sealpod.sev.authority import Authority
from sealpod.sev.ca import CaCertificate
from sealpod.sev.cert import Certificate, Usage

SEV_ORDER: Final = (Usage.PDH, Usage.PEK, Usage.OCA, Usage.CEK)
EXPORT_ORDER: Final = (Usage.PEK, Usage.OCA, Usage.CEK)
"""The chain buffer of PDH_CERT_EXPORT and QMP's ``cert-chain``: 6252 bytes."""
CA_ORDER: Final = (Usage.ASK, Usage.ARK)
PLATFORM_CHAIN_SIZE: Final = len(SEV_ORDER) * cert.SIZE
"""8336 bytes."""
MAX_SIZE: Final = 1 << 16
"""Bytes of input looked at; the longest chain has 11536."""


@dataclass(frozen=True, slots=True)
class PlatformChain:
    """The four certificates a platform has, their signatures not yet verified."""

    pdh: Certificate
    pek: Certificate
    oca: Certificate
    cek: Certificate

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """PDH, PEK, OCA, CEK from the start of ``data``; a full chain has them too.

        :raise DecodeError: truncated, malformed, or a certificate not in its place.
        """
        return cls(*_sev_certificates(data, SEV_ORDER))

    @classmethod
    def from_export(cls, pdh: bytes, chain: bytes) -> Self:
        """From the two buffers of PDH_CERT_EXPORT: the PDH, and PEK, OCA, CEK.

        :raise DecodeError: truncated, malformed, or a certificate not in its place.
        """
        return cls(*_sev_certificates(pdh, (Usage.PDH,)), *_sev_certificates(chain, EXPORT_ORDER))

    def encode(self) -> bytes:
        """8336 bytes."""
        return b"".join(part.encode() for part in (self.pdh, self.pek, self.oca, self.cek))

    def with_cek(self, signed: Certificate) -> Self:
        """The chain with AMD's signed certificate in place of the exported CEK.

        :raise VerificationError: it is for another chip's key: all but the signatures must be the same.
        """
        if signed.usage != Usage.CEK or (signed.algorithm, signed.pubkey) != (
            self.cek.algorithm,
            self.cek.pubkey,
        ):
            raise VerificationError(
                "the signed CEK is another chip's",
                code="chain.cek-other",
                remedy="fetch it by this chip's id",
            )
        return replace(self, cek=signed)

    def under(self, authority: Authority) -> Chain:
        """The full chain."""
        return Chain(self.pdh, self.pek, self.oca, self.cek, authority.ask, authority.ark)


@dataclass(frozen=True, slots=True)
class Chain:
    """A full chain, decoded and in the right order, its signatures not yet verified."""

    pdh: Certificate
    pek: Certificate
    oca: Certificate
    cek: Certificate
    ask: CaCertificate
    ark: CaCertificate

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """A chain from its bytes.

        :raise DecodeError: truncated, malformed, or a certificate not in its place.
        """
        pdh, pek, oca, cek = _sev_certificates(data, SEV_ORDER)
        ask, size = _ca_certificate(data[PLATFORM_CHAIN_SIZE:], Usage.ASK)
        ark, _ = _ca_certificate(data[PLATFORM_CHAIN_SIZE + size :], Usage.ARK)
        return cls(pdh, pek, oca, cek, ask, ark)

    @property
    def platform(self) -> PlatformChain:
        """The part the platform has itself."""
        return PlatformChain(self.pdh, self.pek, self.oca, self.cek)

    @property
    def authority(self) -> Authority:
        """The part the vendor has."""
        return Authority(self.ask, self.ark)

    def encode(self) -> bytes:
        """10000 or 11536 bytes."""
        return self.platform.encode() + self.authority.encode()


def decode_pdh(data: bytes) -> Certificate:
    """The PDH a file starts with: a certificate alone, or any chain. Nothing is verified.

    :raise DecodeError: anything else.
    """
    (pdh,) = _sev_certificates(data, (Usage.PDH,))
    return pdh


def _sev_certificates(data: bytes, order: Sequence[Usage]) -> list[Certificate]:
    if len(data) > MAX_SIZE:
        raise _malformed(f"a certificate chain of {len(data)} bytes")
    return [_sev_certificate(data, position, usage) for position, usage in enumerate(order)]


def _sev_certificate(data: bytes, position: int, usage: Usage) -> Certificate:
    start = position * cert.SIZE
    piece = data[start : start + cert.SIZE]
    if len(piece) < cert.SIZE:
        raise _malformed(f"the certificate chain ends before its {usage.name}")
    found = Certificate.decode(piece)
    if found.usage != usage:
        raise _malformed(f"the certificate chain has a {found.usage.name} in place of its {usage.name}")
    found.require_canonical()
    return found


def _ca_certificate(data: bytes, usage: Usage) -> tuple[CaCertificate, int]:
    if not data:
        raise _malformed(
            f"the certificate chain ends before its {usage.name}",
            remedy="export the full chain: PDH, PEK, OCA, CEK, ASK, ARK",
        )
    found, size = CaCertificate.decode(data)
    if found.usage != usage:
        raise _malformed(f"the certificate chain has a {found.usage.name} in place of its {usage.name}")
    return found, size


def _malformed(message: str, *, remedy: str | None = None) -> DecodeError:
    return DecodeError(message, code="chain.malformed", remedy=remedy)
