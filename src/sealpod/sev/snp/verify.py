# SPDX-License-Identifier: Apache-2.0
"""What an SNP report proves: by whose key it is signed, and for which chip and firmware that key is.

    ARK (self-signed, pinned)  ->  ASK   ->  VCEK  ->  report
                               ->  ASVK  ->  VLEK  ->  report

Revocation lists are not looked at; AMD's, served beside the certificates, name ASKs.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from sealpod.errors import DecodeError, VerificationError
from sealpod.sev.signature import Algorithm, verify_bytes
from sealpod.sev.snp.demands import Demands, check_demands
from sealpod.sev.snp.report import SigningKey, SnpReport
from sealpod.sev.snp.tcb import TcbLayout
from sealpod.sev.snp.vek import EndorsementKey
from sealpod.sev.snp.x509 import X509

_AUTHORITY_NAMES: Final = {SigningKey.VCEK: "SEV-{}", SigningKey.VLEK: "SEV-VLEK-{}"}


@dataclass(frozen=True, slots=True)
class SnpChain:
    """The certificates of an endorsement key, their signatures not yet verified."""

    ark: X509
    ask: X509
    """The ASK of a VCEK, or the ASVK of a VLEK."""
    vek: EndorsementKey

    @classmethod
    def of(cls, certificates: Iterable[X509]) -> Self:
        """A chain from three certificates in any order.

        :raise DecodeError: they are not two authorities, one of them self-signed, and an endorsement key.
        """
        found = list(certificates)
        roots = [one for one in found if one.is_authority and one.issuer == one.subject]
        authorities = [one for one in found if one.is_authority and one.issuer != one.subject]
        leaves = [one for one in found if not one.is_authority]
        if len(roots) != 1 or len(authorities) != 1 or len(leaves) != 1:
            raise DecodeError(
                "an SNP chain is an ARK, an ASK or ASVK, and a VCEK or VLEK",
                code="snp.chain",
                remedy="give the three certificates of one chain, each once",
            )
        return cls(roots[0], authorities[0], EndorsementKey.of(leaves[0]))


@dataclass(frozen=True, slots=True)
class SnpTrust:
    """Where a verified chain ends, and for which TCB layout its key signs."""

    root: str
    ark_sha256: str
    layout: TcbLayout


def verify_snp_chain(chain: SnpChain, trusted: Mapping[str, str], *, now: datetime) -> SnpTrust:
    """Verify every certificate, from the root down.

    ``trusted`` maps the lower-case hex SHA-256 of an ARK's DER bytes to a name. The steps:

    1. the ARK signed itself; 2. the ARK is one the caller trusts; 3. the ARK signed the ASK (or ASVK);
    4. the ASK signed the endorsement key; 5. all of them are of one generation, and the authority is the one
    for this kind of key: an ASVK makes no VCEKs. Each certificate is valid ``now``.

    :raise VerificationError: code ``snp.untrusted-root``, ``.signature``, ``.issuer``, ``.authority``,
        ``.expired`` or ``.generation``.
    :raise DecodeError: a product this version does not know.
    """
    chain.ark.verify_signed_by(chain.ark, now=now)  # (1)
    root = trusted.get(chain.ark.sha256)  # (2)
    if root is None:
        raise VerificationError(
            f"the chain ends in an ARK that is not trusted (SHA-256 {chain.ark.sha256})",
            code="snp.untrusted-root",
            remedy="trust this root explicitly only if you know whose it is",
        )
    chain.ask.verify_signed_by(chain.ark, now=now)  # (3)
    chain.vek.certificate.verify_signed_by(chain.ask, now=now)  # (4)
    name = chain.vek.generation.value.capitalize()  # (5)
    expected = _AUTHORITY_NAMES[chain.vek.kind].format(name)
    if (chain.ask.common_name, chain.ark.common_name) != (expected, f"ARK-{name}"):
        raise VerificationError(
            f"a key of {chain.vek.product} under {chain.ask.common_name} and {chain.ark.common_name}",
            code="snp.generation",
        )
    return SnpTrust(root, chain.ark.sha256, chain.vek.layout)


def verify_attestation(
    report: SnpReport,
    chain: SnpChain,
    trusted: Mapping[str, str],
    *,
    now: datetime,
    demands: Demands | None = None,
) -> SnpTrust:
    """Verify a report: its chain, its signature, that the key is the one for this chip and TCB, the demands.

    1. the chain (:func:`verify_snp_chain`);
    2. the report says that a key of this kind signed it, and that signing was not switched off;
    3. the signature;
    4. report and certificate speak of the same generation, and of the same reported TCB, part by part;
    5. the chip is the one the VCEK is for (a VLEK is for many);
    6. what the caller demands (:func:`sealpod.sev.snp.demands.check_demands`), by default no debugging.

    :raise VerificationError: code ``snp.key``, ``.report-signature``, ``.generation``, ``.tcb-mismatch`` or
        ``.chip``, or one of step 1.
    :raise RefusedError: a demand is not met.
    """
    trust = verify_snp_chain(chain, trusted, now=now)  # (1)
    vek = chain.vek
    if report.signing_key is not vek.kind or report.chip_key_masked:  # (2)
        raise VerificationError(f"the report was not signed by a {vek.kind.name}", code="snp.key")
    try:  # (3)
        verify_bytes(vek.public_key, Algorithm.ECDSA_SHA384, report.body, report.signature)
    except VerificationError as error:
        raise VerificationError(
            f"{vek.kind.name} does not sign the report: {error.message}", code="snp.report-signature"
        ) from error
    if report.layout not in (None, trust.layout):  # (4)
        raise VerificationError(f"a report of another processor than {vek.product}", code="snp.generation")
    reported = report.tcb(trust.layout)["reported"]
    if reported != vek.tcb:
        raise VerificationError(
            f"the report is of TCB {reported}, the key of {vek.tcb}",
            code="snp.tcb-mismatch",
            remedy="fetch the certificate for the reported TCB",
        )
    _verify_chip(report, vek)  # (5)
    check_demands(report, demands or Demands(), trust.layout)  # (6)
    return trust


def _verify_chip(report: SnpReport, vek: EndorsementKey) -> None:
    if vek.hwid is None:
        return
    rest = report.chip_id[len(vek.hwid) :]
    if not hmac.compare_digest(report.chip_id[: len(vek.hwid)], vek.hwid) or any(rest):
        raise VerificationError(
            "the report is of another chip than the VCEK, or hides which one it is of", code="snp.chip"
        )
