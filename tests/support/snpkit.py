# SPDX-License-Identifier: Apache-2.0
"""A made SNP hierarchy: authorities as AMD's, keys of chips and providers, reports they sign."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

from sealpod.sev.snp.verify import SnpChain
from sealpod.sev.snp.x509 import X509

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EXTENSION = "1.3.6.1.4.1.3704.1."
CHIP_ID = bytes(range(1, 65))
LEVELS = {"fmc": 9, "bootloader": 3, "tee": 1, "snp": 8, "microcode": 115}

Extensions = Mapping[str, bytes]


def integer(value: int) -> bytes:
    """A DER INTEGER of 0 to 255."""
    return b"\x02\x01" + bytes([value]) if value < 128 else b"\x02\x02\0" + bytes([value])


def vcek_extensions(product: str, hwid: bytes | None, levels: Mapping[str, int] = LEVELS) -> dict[str, bytes]:
    """What AMD writes into the certificate of a key."""
    turin = product.startswith("Turin")
    out = {
        "1": integer(0),
        "2": b"\x16" + bytes([len(product)]) + product.encode(),
        "3.1": integer(levels["bootloader"]),
        "3.2": integer(levels["tee"]),
        "3.3": integer(levels["snp"]),
        "3.8": integer(levels["microcode"]),
    }
    if turin:
        out["3.9"] = integer(levels["fmc"])
    if hwid is not None:
        out["4"] = hwid
    return out


def tcb(layout_turin: bool, **changes: int) -> bytes:
    level = {**LEVELS, **changes}
    if layout_turin:
        head = [level["fmc"], level["bootloader"], level["tee"], level["snp"], 0, 0, 0]
    else:
        head = [level["bootloader"], level["tee"], 0, 0, 0, 0, level["snp"]]
    return bytes([*head, level["microcode"]])


@dataclass(frozen=True)
class Maker:
    """Makes certificates and reports. RSA keys are slow, so there are two for everything."""

    root_key: rsa.RSAPrivateKey
    middle_key: rsa.RSAPrivateKey
    leaf_key: ec.EllipticCurvePrivateKey

    def certificate(
        self,
        subject: str,
        issuer: str,
        key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
        signer: rsa.RSAPrivateKey,
        *,
        authority: bool,
        extensions: Extensions | None = None,
        critical: str = "",
        years: tuple[int, int] = (2020, 2045),
    ) -> bytes:
        names = [
            x509.Name(
                [
                    x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Advanced Micro Devices"),
                    x509.NameAttribute(NameOID.COMMON_NAME, name),
                ]
            )
            for name in (subject, issuer)
        ]
        builder = (
            x509.CertificateBuilder()
            .subject_name(names[0])
            .issuer_name(names[1])
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(datetime(years[0], 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(years[1], 1, 1, tzinfo=UTC))
        )
        if authority:
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        for name, value in (extensions or {}).items():
            oid = ObjectIdentifier(EXTENSION + name)
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=name == critical)
        scheme = padding.PSS(mgf=padding.MGF1(SHA384()), salt_length=48)
        return builder.sign(signer, SHA384(), rsa_padding=scheme).public_bytes(Encoding.DER)

    def chain(
        self, product: str = "Milan-B0", *, vlek: bool = False, hwid: bytes | None = None, **changes: int
    ) -> SnpChain:
        generation = product.partition("-")[0]
        ark_name, ask_name = f"ARK-{generation}", f"SEV-{'VLEK-' if vlek else ''}{generation}"
        ark = self.certificate(ark_name, ark_name, self.root_key, self.root_key, authority=True)
        ask = self.certificate(ask_name, ark_name, self.middle_key, self.root_key, authority=True)
        if hwid is None and not vlek:
            hwid = CHIP_ID[:8] if generation == "Turin" else CHIP_ID
        extensions = vcek_extensions(product, hwid, {**LEVELS, **changes})
        if vlek:
            extensions["5"] = b"\x16\x05cloud"
        leaf = self.certificate(
            "SEV-VLEK" if vlek else "SEV-VCEK",
            ask_name,
            self.leaf_key,
            self.middle_key,
            authority=False,
            extensions=extensions,
        )
        return SnpChain.of(X509.decode(data) for data in (leaf, ark, ask))

    def report(
        self, version: int, *, turin: bool = False, patch: Mapping[int, bytes] | None = None, **changes: int
    ) -> bytes:
        """A signed report; ``patch`` writes at offsets before signing."""
        body = bytearray(0x2A0)
        struct.pack_into("<IIQ", body, 0, version, 2, 0x30000)
        struct.pack_into("<II", body, 0x30, 1, 1)
        body[0x50:0x90] = b"D" * 64
        body[0x90:0xC0] = b"M" * 48
        for offset in (0x38, 0x180, 0x1E0, 0x1F0):
            body[offset : offset + 8] = tcb(turin, **changes)
        if version >= 3:
            body[0x188:0x18B] = bytes([0x1A, 2, 1] if turin else [0x19, 1, 1])
        body[0x1A0:0x1E0] = CHIP_ID[:8] + bytes(56) if turin else CHIP_ID
        body[0x1E8:0x1EB] = body[0x1EC:0x1EF] = bytes([4, 55, 1])
        if version >= 5:
            struct.pack_into("<QQ", body, 0x1F8, 0b111, 0b101)
        for offset, value in (patch or {}).items():
            body[offset : offset + len(value)] = value
        return bytes(body) + self.signature(bytes(body))

    def signature(self, body: bytes) -> bytes:
        parts = decode_dss_signature(self.leaf_key.sign(body, ec.ECDSA(SHA384())))
        return b"".join(part.to_bytes(72, "little") for part in parts).ljust(512, b"\0")


def new_maker(bits: int = 4096) -> Maker:
    """Fresh keys. AMD's authorities have 4096 bits."""
    return Maker(
        rsa.generate_private_key(65537, bits),
        rsa.generate_private_key(65537, bits),
        ec.generate_private_key(ec.SECP384R1()),
    )
