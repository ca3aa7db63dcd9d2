# SPDX-License-Identifier: Apache-2.0
"""The model's chip: its unique secret, and the vendor's certificates for the key derived from it.

A real chip has a secret in its fuses; its endorsement key (CEK) is derived from that, and AMD's key server
publishes the CEK certificate signed by the ASK, under the ARK (AMD SEV API, certificates). The model makes
all of this once: a random secret, and an ARK and ASK of its own. Their private keys are thrown away as soon
as the CEK certificate is signed, so that nothing can ever be signed by a model's root again.

The record kept on disk (all of it is bound together by the MAC, keyed by the secret)::

    off  len   field
    0    16    MAGIC
    16   32    SECRET
    48   2084  CEK certificate, signed by the ASK
    2132 1600  ASK certificate (4096 bit)
    3732 1600  ARK certificate (4096 bit)
    5332 32    MAC, HMAC-SHA256 over everything before it
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sealpod.errors import DecodeError
from sealpod.secret import SecretBytes
from sealpod.sev import ca, cert
from sealpod.sev.kdf import CEK_LABEL, hmac_sha256, kdf
from sealpod.sev.version import FirmwareVersion

VERSION: Final = FirmwareVersion(0, 24, 15)
"""The firmware version the model implements and reports."""
API: Final = (VERSION.api_major, VERSION.api_minor)
"""What the model's certificates say about who made them."""

MAGIC: Final = b"sealpod chip v1\0"
CA_KEY_BITS: Final = 4096
_RECORD: Final = struct.Struct("<16s32s2084s1600s1600s32s")
_MAC_LENGTH: Final = 32

# Order of the group of P-384 and of secp256k1 (SEC 2, sections 2.5.1 and 2.4.1).
P384_ORDER: Final = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)
_K256_ORDER: Final = int("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141", 16)

_SCALAR_BYTES: Final = 56
"""64 bits more than the group order, so that reducing modulo the order leaves no bias (FIPS 186-5, A.2.1)."""

RandomBytes = Callable[[int], bytes]
RsaSource = Callable[[], rsa.RSAPrivateKey]
"""Makes an RSA key of CA_KEY_BITS. An argument because making one takes seconds."""


def scalar(material: bytes, order: int) -> int:
    """A private scalar in 1..order-1 from ``material``, little-endian (as the firmware derives its CEK)."""
    return int.from_bytes(material, "little") % (order - 1) + 1


def new_key(rng: RandomBytes) -> ec.EllipticCurvePrivateKey:
    """A fresh P-384 key from ``rng``."""
    return ec.derive_private_key(scalar(rng(_SCALAR_BYTES), P384_ORDER), ec.SECP384R1())


@dataclass(frozen=True, slots=True)
class Chip:
    """One model chip: secret and vendor certificates (bytes as they stand in the chain)."""

    secret: SecretBytes
    cek: bytes
    ask: bytes
    ark: bytes

    @property
    def seed(self) -> bytes:
        """SHA-256 of the chip's secret: what every key of the chip is derived from."""
        return _seed(self.secret)

    def cek_key(self) -> ec.EllipticCurvePrivateKey:
        """The chip endorsement key, derived anew each time as the firmware does."""
        return _cek_key(self.secret)

    def seal_key(self, label: str) -> bytes:
        """32 bytes that only this chip has, for ``label``."""
        return kdf(self.seed, 32, label.encode())

    def identifier(self) -> bytes:
        """GET_ID's 64 bytes: a secp256k1 point, X then Y, big-endian."""
        material = kdf(self.seed, _SCALAR_BYTES, b"sealpod-chip-identifier")
        key = ec.derive_private_key(scalar(material, _K256_ORDER), ec.SECP256K1())
        point = key.public_key().public_numbers()
        return point.x.to_bytes(32, "big") + point.y.to_bytes(32, "big")

    def encode(self) -> bytes:
        """The record for the disk, 5364 bytes."""
        record = _RECORD.pack(MAGIC, self.secret.reveal(), self.cek, self.ask, self.ark, b"")
        body = record[:-_MAC_LENGTH]
        return body + _mac(self.secret, body)

    @classmethod
    def decode(cls, data: bytes) -> Chip:
        """Read a record back; :class:`DecodeError` when it is not exactly what :meth:`encode` wrote."""
        if len(data) != _RECORD.size:
            raise DecodeError(f"a chip record has {_RECORD.size} bytes, not {len(data)}")
        magic, secret, cek, ask, ark, mac = _RECORD.unpack(data)
        if magic != MAGIC:
            raise DecodeError("not a chip record of this version")
        if not hmac.compare_digest(mac, _mac(SecretBytes(secret), data[:-_MAC_LENGTH])):
            raise DecodeError("the chip record's MAC does not match")
        return cls(SecretBytes(secret), cek, ask, ark)


def _mac(secret: SecretBytes, body: bytes) -> bytes:
    return hmac_sha256(kdf(_seed(secret), 32, b"sealpod-chip-record"), body)


def _seed(secret: SecretBytes) -> bytes:
    return hashlib.sha256(secret.reveal()).digest()


def _cek_key(secret: SecretBytes) -> ec.EllipticCurvePrivateKey:
    material = kdf(_seed(secret), _SCALAR_BYTES, CEK_LABEL)
    return ec.derive_private_key(scalar(material, P384_ORDER), ec.SECP384R1())


def cek_certificate(key: ec.EllipticCurvePrivateKey) -> cert.Certificate:
    """The CEK certificate as the firmware itself exports it: unsigned."""
    return cert.make(key.public_key(), cert.Usage.CEK, cert.Algorithm.ECDSA_SHA256, api=API)


def make_chip(rng: RandomBytes, rsa_key: RsaSource) -> Chip:
    """A new chip with an ARK, ASK and signed CEK of its own."""
    secret = SecretBytes(rng(32))
    ark_key, ask_key = rsa_key(), rsa_key()
    ark_id, ask_id = rng(16), rng(16)
    ark = ca.make_ca(ark_key.public_key(), cert.Usage.ARK, ark_id, ark_id, ark_key)
    ask = ca.make_ca(ask_key.public_key(), cert.Usage.ASK, ask_id, ark_id, ark_key)
    unsigned = cek_certificate(_cek_key(secret))
    cek = cert.sign(unsigned, ask_key, cert.Usage.ASK, cert.Algorithm.RSA_SHA384, 0)
    return Chip(secret, cek.encode(), ask.encode(), ark.encode())
