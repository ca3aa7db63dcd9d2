# SPDX-License-Identifier: Apache-2.0
"""The certificate chain of a platform, and who must have signed whom (SEV API, appendix B and C).

``sevctl export --full`` and the key broker's protocol carry it as PDH, PEK, OCA, CEK (2084 bytes each), ASK,
ARK (832 bytes each for RSA-2048, 1600 for RSA-4096): 10000 or 11536 bytes; what follows is ignored.

A chain proves nothing by being consistent: anybody can make a root. So the ARK is compared with the roots
the caller trusts; a chain under another root could come from a host that knows its private keys, learns the
transport keys from them and forges every measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from sealpod.errors import DecodeError, VerificationError
from sealpod.sev import ca, cert
from sealpod.sev.ca import CaCertificate
from sealpod.sev.cert import Algorithm, Certificate, Usage

SEV_ORDER: Final = (Usage.PDH, Usage.PEK, Usage.OCA, Usage.CEK)
CA_ORDER: Final = (Usage.ASK, Usage.ARK)
MAX_SIZE: Final = 1 << 16
"""Bytes of input looked at; the longest chain has 11536."""

# A key of another purpose must not vouch for anything, whatever it signed.
_SIGNING: Final = (Algorithm.ECDSA_SHA256, Algorithm.ECDSA_SHA384)
_AGREEING: Final = (Algorithm.ECDH_SHA256, Algorithm.ECDH_SHA384)


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
        if len(data) > MAX_SIZE:
            raise _malformed(f"a certificate chain of {len(data)} bytes")
        pdh, pek, oca, cek = (
            _sev_certificate(data, position, usage) for position, usage in enumerate(SEV_ORDER)
        )
        offset = len(SEV_ORDER) * cert.SIZE
        ask, size = _ca_certificate(data[offset:], Usage.ASK)
        ark, _ = _ca_certificate(data[offset + size :], Usage.ARK)
        return cls(pdh, pek, oca, cek, ask, ark)

    def encode(self) -> bytes:
        """10000 or 11536 bytes."""
        parts = (self.pdh, self.pek, self.oca, self.cek, self.ask, self.ark)
        return b"".join(part.encode() for part in parts)


@dataclass(frozen=True, slots=True)
class Trust:
    """Where a verified chain ends."""

    root: str
    """The name the trusted mapping gives this ARK: "AMD Milan", "model"."""
    ark_sha256: str
    """Lower-case hex SHA-256 of the ARK's certificate bytes."""


def verify_chain(chain: Chain, trusted: Mapping[str, str]) -> Trust:
    """Verify every link, from the root down to the PDH.

    ``trusted`` maps the lower-case hex SHA-256 of an ARK's certificate bytes to a name. The steps:

    1. the ARK signed itself;
    2. the ARK is one the caller trusts (stops a self-made hierarchy);
    3. the ARK signed the ASK;
    4. the ASK signed the CEK (stops a chip key AMD does not vouch for);
    5. the OCA signed itself;
    6. the OCA signed the PEK;
    7. the CEK signed the PEK (binds the platform's identity to the chip);
    8. the PEK signed the PDH, whose key the session is agreed with.

    :raise VerificationError: code ``chain.untrusted-root``, or ``chain.<link>`` naming the certificate that
        failed: ``chain.ark``, ``.ask``, ``.cek``, ``.oca``, ``.pek-oca``, ``.pek-cek``, ``.pdh``.
    """
    oca, cek, pek, pdh = chain.oca, chain.cek, chain.pek, chain.pdh
    _link("ark", "ARK is not self-signed", lambda: chain.ark.verify_signed_by(chain.ark))  # (1)
    trust = _pinned_root(chain.ark, trusted)  # (2)
    _link("ask", "ARK does not sign the ASK", lambda: chain.ask.verify_signed_by(chain.ark))  # (3)
    _link(  # (4)
        "cek",
        "ASK does not sign the CEK",
        lambda: cek.verify_signed_by(chain.ask.public_key(), Usage.ASK, chain.ask.algorithm),
    )
    _link("oca", "OCA is not self-signed", lambda: _verify_signed_by(oca, oca))  # (5)
    _link("pek-oca", "OCA does not sign the PEK", lambda: _verify_signed_by(pek, oca))  # (6)
    _link("pek-cek", "CEK does not sign the PEK", lambda: _verify_signed_by(pek, cek))  # (7)
    _link("pdh", "PEK does not sign the PDH", lambda: _verify_signed_by(pdh, pek))  # (8)
    if pdh.algorithm not in _AGREEING:
        raise VerificationError("PDH is not a key agreement key", code="chain.pdh")
    return trust


def _pinned_root(ark: CaCertificate, trusted: Mapping[str, str]) -> Trust:
    fingerprint = ark.sha256
    name = trusted.get(fingerprint)
    if name is None:
        raise VerificationError(
            f"the chain ends in an ARK that is not trusted (SHA-256 {fingerprint})",
            code="chain.untrusted-root",
            remedy="trust this root explicitly only if you know whose it is",
        )
    return Trust(root=name, ark_sha256=fingerprint)


def _verify_signed_by(child: Certificate, issuer: Certificate) -> None:
    if issuer.algorithm not in _SIGNING:
        raise VerificationError(f"{issuer.usage.name} is not a signing key", code="sev.algorithm")
    child.verify_signed_by(issuer.public_key(), issuer.usage, issuer.algorithm)


def _link(name: str, failure: str, check: Callable[[], None]) -> None:
    try:
        check()
    except (VerificationError, DecodeError) as error:
        raise VerificationError(f"{failure}: {error.message}", code=f"chain.{name}") from error


def _sev_certificate(data: bytes, position: int, usage: Usage) -> Certificate:
    start = position * cert.SIZE
    piece = data[start : start + cert.SIZE]
    if len(piece) < cert.SIZE:
        raise _malformed(f"the certificate chain ends before its {usage.name}")
    found = Certificate.decode(piece)
    if found.usage != usage:
        raise _malformed(f"the certificate chain has a {found.usage.name} in place of its {usage.name}")
    return found


def _ca_certificate(data: bytes, usage: Usage) -> tuple[CaCertificate, int]:
    if not data:
        raise _malformed(
            f"the certificate chain ends before its {usage.name}",
            remedy="export the full chain: PDH, PEK, OCA, CEK, ASK, ARK",
        )
    found, size = ca.CaCertificate.decode(data)
    if found.usage != usage:
        raise _malformed(f"the certificate chain has a {found.usage.name} in place of its {usage.name}")
    return found, size


def _malformed(message: str, *, remedy: str | None = None) -> DecodeError:
    return DecodeError(message, code="chain.malformed", remedy=remedy)
