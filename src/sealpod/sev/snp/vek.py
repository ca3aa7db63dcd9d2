# SPDX-License-Identifier: Apache-2.0
"""The keys that sign SNP reports: VCEK and VLEK (AMD, VCEK certificate and KDS interface specification).

A VCEK is derived from one chip's secret and its TCB version; a VLEK from a secret AMD gave a cloud provider,
and a TCB version. Their certificates say for which, in extensions under 1.3.6.1.4.1.3704.1::

    .1     structure version         .3.3   SNP firmware's SPL
    .2     product: "Milan-B0"       .3.8   microcode's SPL
    .3.1   bootloader's SPL          .3.9   FMC's SPL (Turin)
    .3.2   TEE's SPL                 .4     the chip's id, 64 bytes or 8 (VCEK)
                                     .5     the provider's id (VLEK)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric import ec

from sealpod.sev.authority import Generation
from sealpod.sev.snp import der
from sealpod.sev.snp.der import malformed
from sealpod.sev.snp.report import SigningKey
from sealpod.sev.snp.tcb import TcbLayout, TcbVersion
from sealpod.sev.snp.x509 import X509

HWID_SIZES: Final = (64, 8)

_ROOT: Final = "1.3.6.1.4.1.3704.1"
_PRODUCT: Final = der.oid(f"{_ROOT}.2")
_LEVELS: Final = {
    "bootloader": der.oid(f"{_ROOT}.3.1"),
    "tee": der.oid(f"{_ROOT}.3.2"),
    "snp": der.oid(f"{_ROOT}.3.3"),
    "microcode": der.oid(f"{_ROOT}.3.8"),
}
_FMC: Final = der.oid(f"{_ROOT}.3.9")
_HWID: Final = der.oid(f"{_ROOT}.4")
_PROVIDER: Final = der.oid(f"{_ROOT}.5")
_KINDS: Final = {"SEV-VCEK": SigningKey.VCEK, "SEV-VLEK": SigningKey.VLEK}
_SNP_GENERATIONS: Final = (Generation.MILAN, Generation.GENOA, Generation.TURIN)


@dataclass(frozen=True, slots=True)
class EndorsementKey:
    """What a VCEK's or VLEK's certificate says. Nothing of it is true before the certificate is verified."""

    certificate: X509
    kind: SigningKey
    public_key: ec.EllipticCurvePublicKey
    product: str
    """``Milan-B0``, ``Turin``."""
    tcb: TcbVersion
    hwid: bytes | None
    """The chip's id, 64 bytes or 8; a VLEK has none."""
    provider: str | None
    """Who a VLEK was given to."""

    @classmethod
    def of(cls, certificate: X509) -> Self:
        """The endorsement key in a certificate.

        :raise DecodeError: neither a VCEK nor a VLEK, or extensions that are missing or malformed.
        """
        kind = _KINDS.get(certificate.common_name)
        if kind is None:
            raise malformed(f"{certificate.common_name[:40]!r} is neither SEV-VCEK nor SEV-VLEK")
        key = certificate.public_key
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
            raise malformed("an endorsement key is not on P-384")
        extensions = certificate.extensions
        levels = {name: _level(extensions.get(place), name) for name, place in _LEVELS.items()}
        fmc = _level(extensions[_FMC], "fmc") if _FMC in extensions else None
        hwid = extensions.get(_HWID)
        if kind is SigningKey.VCEK and (hwid is None or len(hwid) not in HWID_SIZES):
            raise malformed("a VCEK does not name its chip")
        found = cls(
            certificate=certificate,
            kind=kind,
            public_key=key,
            product=_text(extensions.get(_PRODUCT)),
            tcb=TcbVersion(**levels, fmc=fmc),
            hwid=hwid if kind is SigningKey.VCEK else None,
            provider=_text(extensions[_PROVIDER]) if _PROVIDER in extensions else None,
        )
        if (fmc is not None) != (found.layout is TcbLayout.TURIN):
            raise malformed(f"a key of {found.product} with TCB levels of another generation")
        return found

    @property
    def generation(self) -> Generation:
        """The generation the product is of. :raise DecodeError: one this version does not know."""
        name = self.product.partition("-")[0].lower()
        name = {"bergamo": "genoa", "siena": "genoa"}.get(name, name)
        for generation in _SNP_GENERATIONS:
            if generation == name:
                return generation
        raise malformed(f"the product {self.product[:40]!r} is unknown")

    @property
    def layout(self) -> TcbLayout:
        """How its reports write TCB versions. :raise DecodeError: an unknown product."""
        return TcbLayout.TURIN if self.generation is Generation.TURIN else TcbLayout.MILAN


def _level(value: bytes | None, name: str) -> int:
    if value is None:
        raise malformed(f"an endorsement key without its {name} level")
    return der.small_integer(value, 0xFF)


def _text(value: bytes | None) -> str:
    if value is None:
        raise malformed("an endorsement key without its product")
    try:
        return der.only(value, der.IA5_STRING, der.UTF8_STRING).content.decode("ascii")
    except UnicodeDecodeError:
        raise malformed("a name is not ASCII") from None
