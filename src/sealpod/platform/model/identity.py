# SPDX-License-Identifier: Apache-2.0
"""The platform's identity: OCA, PEK and PDH, and how they are sealed between two starts.

Who signs whom (AMD SEV API, certificates): the OCA signs itself, OCA and CEK sign the PEK (slots in this
order), the PEK signs the PDH. The CEK is not part of it: it is derived from the chip at every INIT.

Who owns the platform is told by its OCA: made by the platform, its private key is here; an outside owner's
stays with the owner (PEK_CERT_IMPORT).

Sealed form, at most 32 KiB: IV 16, then AES-256-CTR ciphertext, then HMAC-SHA256 over ciphertext and IV
(encrypt-then-MAC under keys of the chip). Plain form::

    off  len   field
    0    4     owner: 1 the platform itself, 2 an outside OCA
    4    48    OCA private scalar, big-endian; zeros for an outside OCA
    52   48    PEK private scalar
    100  48    PDH private scalar
    148  2084  OCA certificate
    2232 2084  PEK certificate
    4316 2084  PDH certificate
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from sealpod.errors import DecodeError
from sealpod.platform.model.chip import API, P384_ORDER, Chip, RandomBytes, new_key
from sealpod.sev import cert
from sealpod.sev.kdf import aes_ctr, hmac_sha256

MAX_SEALED: Final = 32 * 1024
"""Bytes of the firmware's persistent store (AMD SEV API, INIT_EX)."""

_PLAIN: Final = struct.Struct("<I48s48s48s2084s2084s2084s")
_SELF_OWNED: Final = 1
_OUTSIDE_OWNED: Final = 2
_SCALAR_LENGTH: Final = 48
_SIGNING: Final = cert.Algorithm.ECDSA_SHA256
_IV_LENGTH: Final = 16
_MAC_LENGTH: Final = 32


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A private key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: cert.Certificate


@dataclass(frozen=True, slots=True)
class Authority:
    """The OCA: its certificate, and its key when it is the platform's own."""

    key: ec.EllipticCurvePrivateKey | None
    certificate: cert.Certificate


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything of a platform that outlives a restart, apart from its chip."""

    oca: Authority
    pek: KeyPair
    pdh: KeyPair

    @property
    def owned(self) -> bool:
        """The OCA is an outside owner's."""
        return self.oca.key is None


def make_identity(chip: Chip, rng: RandomBytes) -> Identity:
    """A new self-owned identity of ``chip``."""
    oca_key, pek_key = new_key(rng), new_key(rng)
    oca = cert.make(oca_key.public_key(), cert.Usage.OCA, _SIGNING, api=API)
    oca = cert.sign(oca, oca_key, cert.Usage.OCA, _SIGNING, 0)
    pek = cert.make(pek_key.public_key(), cert.Usage.PEK, _SIGNING, api=API)
    pek = cert.sign(pek, oca_key, cert.Usage.OCA, _SIGNING, 0)
    pek = endorse(pek, chip, 1)
    pair = KeyPair(pek_key, pek)
    return Identity(Authority(oca_key, oca), pair, make_pdh(pair, rng))


def endorse(pek: cert.Certificate, chip: Chip, slot: int) -> cert.Certificate:
    """The PEK's certificate with the CEK's signature in ``slot``."""
    return cert.sign(pek, chip.cek_key(), cert.Usage.CEK, _SIGNING, slot)


def make_pdh(pek: KeyPair, rng: RandomBytes) -> KeyPair:
    """A new Diffie-Hellman key, signed by the PEK."""
    key = new_key(rng)
    pdh = cert.make(key.public_key(), cert.Usage.PDH, cert.Algorithm.ECDH_SHA256, api=API)
    return KeyPair(key, cert.sign(pdh, pek.key, cert.Usage.PEK, _SIGNING, 0))


def seal(identity: Identity, chip: Chip, *, iv: bytes) -> bytes:
    """The sealed form under ``chip``; ``iv`` is 16 fresh random bytes."""
    parts = (identity.oca, identity.pek, identity.pdh)
    scalars = (_scalar(part.key) for part in parts)
    owner = _OUTSIDE_OWNED if identity.owned else _SELF_OWNED
    plain = _PLAIN.pack(owner, *scalars, *(part.certificate.encode() for part in parts))
    ciphertext = _ctr(chip, iv, plain)
    return iv + ciphertext + _mac(chip, ciphertext + iv)


def _scalar(key: ec.EllipticCurvePrivateKey | None) -> bytes:
    value = 0 if key is None else key.private_numbers().private_value
    return value.to_bytes(_SCALAR_LENGTH, "big")


def unseal(sealed: bytes, chip: Chip) -> Identity:
    """Read a sealed identity back.

    :raise DecodeError: another chip's, changed, or cut short.
    """
    if len(sealed) != _IV_LENGTH + _PLAIN.size + _MAC_LENGTH:
        raise DecodeError(f"a sealed identity does not have {len(sealed)} bytes")
    iv, ciphertext, mac = sealed[:_IV_LENGTH], sealed[_IV_LENGTH:-_MAC_LENGTH], sealed[-_MAC_LENGTH:]
    if not hmac.compare_digest(mac, _mac(chip, ciphertext + iv)):
        raise DecodeError("the sealed identity's MAC does not match this chip")
    owner, oca_scalar, *fields = _PLAIN.unpack(_ctr(chip, iv, ciphertext))
    if owner not in (_SELF_OWNED, _OUTSIDE_OWNED):
        raise DecodeError(f"a sealed identity of kind {owner} is not one of this version")
    pek_scalar, pdh_scalar, oca, pek, pdh = fields
    authority = Authority(
        None if owner == _OUTSIDE_OWNED else _pair(oca_scalar, oca).key, cert.Certificate.decode(oca)
    )
    return Identity(authority, _pair(pek_scalar, pek), _pair(pdh_scalar, pdh))


def _pair(scalar: bytes, encoded: bytes) -> KeyPair:
    value = int.from_bytes(scalar, "big")
    if not 0 < value < P384_ORDER:
        raise DecodeError("the sealed identity holds no valid key")
    return KeyPair(ec.derive_private_key(value, ec.SECP384R1()), cert.Certificate.decode(encoded))


def _ctr(chip: Chip, iv: bytes, data: bytes) -> bytes:
    return aes_ctr(chip.seal_key("sealpod-identity-encryption"), iv, data)


def _mac(chip: Chip, data: bytes) -> bytes:
    return hmac_sha256(chip.seal_key("sealpod-identity-mac"), data)
