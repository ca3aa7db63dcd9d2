# SPDX-License-Identifier: Apache-2.0
"""What a platform's certificate chain proves: who must have signed whom (SEV API, appendix B and C).

A chain proves nothing by being consistent: anybody can make a root. So the ARK is compared with the roots
the caller trusts; a chain under another root could come from a host that knows its private keys, learns the
transport keys from them and forges every measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from sealpod.errors import DecodeError, VerificationError
from sealpod.sev.ca import CaCertificate
from sealpod.sev.cert import Certificate, Usage
from sealpod.sev.chainfile import MAX_SIZE, Chain, PlatformChain, decode_pdh

__all__ = [
    "LINKS",
    "MAX_SIZE",
    "Chain",
    "Link",
    "PlatformChain",
    "Trust",
    "decode_pdh",
    "failed_links",
    "verify_chain",
]


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
    _check(chain, ARK_SELF)  # (1)
    trust = _pinned_root(chain.ark, trusted)  # (2)
    _check(chain, ARK_ASK)  # (3)
    _check(chain, ASK_CEK)  # (4)
    _check(chain, OCA_SELF)  # (5)
    _check(chain, OCA_PEK)  # (6)
    _check(chain, CEK_PEK)  # (7)
    _check(chain, PEK_PDH)  # (8)
    return trust


@dataclass(frozen=True, slots=True)
class Link:
    """One signature of a chain."""

    name: str
    """``pek-cek``: the end of the error code ``chain.<name>``."""
    issuer: Usage
    subject: Usage
    verify: Callable[[Chain], None]
    """:raise VerificationError: or DecodeError: it does not hold."""

    @property
    def failure(self) -> str:
        """What it means when it does not hold."""
        if self.issuer == self.subject:
            return f"{self.subject.name} is not self-signed"
        return f"{self.issuer.name} does not sign the {self.subject.name}"


ARK_SELF: Final = Link("ark", Usage.ARK, Usage.ARK, lambda chain: chain.ark.verify_signed_by(chain.ark))
ARK_ASK: Final = Link("ask", Usage.ARK, Usage.ASK, lambda chain: chain.ask.verify_signed_by(chain.ark))
ASK_CEK: Final = Link("cek", Usage.ASK, Usage.CEK, lambda chain: _ask_signs(chain.ask, chain.cek))
OCA_SELF: Final = Link("oca", Usage.OCA, Usage.OCA, lambda chain: _signs(chain.oca, chain.oca))
OCA_PEK: Final = Link("pek-oca", Usage.OCA, Usage.PEK, lambda chain: _signs(chain.oca, chain.pek))
CEK_PEK: Final = Link("pek-cek", Usage.CEK, Usage.PEK, lambda chain: _signs(chain.cek, chain.pek))
PEK_PDH: Final = Link("pdh", Usage.PEK, Usage.PDH, lambda chain: _signs(chain.pek, chain.pdh))
LINKS: Final = (ARK_SELF, ARK_ASK, ASK_CEK, OCA_SELF, OCA_PEK, CEK_PEK, PEK_PDH)
"""All signatures of a chain, in the order they are verified in."""


def failed_links(chain: Chain) -> Mapping[str, VerificationError]:
    """Every link that does not hold, by name: for showing a chain. To trust one, :func:`verify_chain`."""
    failed = {}
    for link in LINKS:
        try:
            _check(chain, link)
        except VerificationError as error:
            failed[link.name] = error
    return failed


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


def _check(chain: Chain, link: Link) -> None:
    try:
        link.verify(chain)
    except (VerificationError, DecodeError) as error:
        raise VerificationError(f"{link.failure}: {error.message}", code=f"chain.{link.name}") from error


def _signs(issuer: Certificate, subject: Certificate) -> None:
    # A key of another purpose must not vouch for anything, whatever it signed.
    if not issuer.algorithm.signs:
        raise VerificationError(f"{issuer.usage.name} is not a signing key", code="sev.algorithm")
    subject.verify_signed_by(issuer.verifying_key(), issuer.usage, issuer.algorithm)
    if subject.usage == Usage.PDH and not subject.algorithm.agrees:
        raise VerificationError("PDH is not a key agreement key", code="sev.algorithm")


def _ask_signs(ask: CaCertificate, cek: Certificate) -> None:
    cek.verify_signed_by(ask.public_key(), Usage.ASK, ask.algorithm)
