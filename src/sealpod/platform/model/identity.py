# SPDX-License-Identifier: Apache-2.0
"""The platform's identity: OCA, PEK and PDH, and how they are sealed between two starts.

Who signs whom (AMD SEV API, certificates): the OCA signs itself, OCA and CEK sign the PEK (slots in this
order), the PEK signs the PDH. The CEK is not part of it: it is derived from the chip at every INIT.

Sealed form, at most 32 KiB: IV 16, then AES-256-CTR ciphertext, then HMAC-SHA256 over ciphertext and IV
(encrypt-then-MAC under keys of the chip). Plain form::

    off  len   field
    0    4     version, 1
    4    48    OCA private scalar, big-endian
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
_VERSION: Final = 1
_IV_LENGTH: Final = 16
_MAC_LENGTH: Final = 32


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A private key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: cert.Certificate


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything of a platform that outlives a restart, apart from its chip."""

    oca: KeyPair
    pek: KeyPair
    pdh: KeyPair


def make_identity(chip: Chip, rng: RandomBytes) -> Identity:
    """A new self-owned identity of ``chip``."""
    oca_key, pek_key, pdh_key = new_key(rng), new_key(rng), new_key(rng)
    signing = cert.Algorithm.ECDSA_SHA256
    oca = cert.make(oca_key.public_key(), cert.Usage.OCA, signing, api=API)
    oca = cert.sign(oca, oca_key, cert.Usage.OCA, signing, 0)
    pek = cert.make(pek_key.public_key(), cert.Usage.PEK, signing, api=API)
    pek = cert.sign(pek, oca_key, cert.Usage.OCA, signing, 0)
    pek = cert.sign(pek, chip.cek_key(), cert.Usage.CEK, signing, 1)
    pdh = cert.make(pdh_key.public_key(), cert.Usage.PDH, cert.Algorithm.ECDH_SHA256, api=API)
    pdh = cert.sign(pdh, pek_key, cert.Usage.PEK, signing, 0)
    return Identity(KeyPair(oca_key, oca), KeyPair(pek_key, pek), KeyPair(pdh_key, pdh))


def seal(identity: Identity, chip: Chip, *, iv: bytes) -> bytes:
    """The sealed form under ``chip``; ``iv`` is 16 fresh random bytes."""
    pairs = (identity.oca, identity.pek, identity.pdh)
    scalars = (pair.key.private_numbers().private_value.to_bytes(48, "big") for pair in pairs)
    plain = _PLAIN.pack(_VERSION, *scalars, *(pair.certificate.encode() for pair in pairs))
    ciphertext = _ctr(chip, iv, plain)
    return iv + ciphertext + _mac(chip, ciphertext + iv)


def unseal(sealed: bytes, chip: Chip) -> Identity:
    """Read a sealed identity back.

    :raise DecodeError: another chip's, changed, or cut short.
    """
    if len(sealed) != _IV_LENGTH + _PLAIN.size + _MAC_LENGTH:
        raise DecodeError(f"a sealed identity does not have {len(sealed)} bytes")
    iv, ciphertext, mac = sealed[:_IV_LENGTH], sealed[_IV_LENGTH:-_MAC_LENGTH], sealed[-_MAC_LENGTH:]
    if not hmac.compare_digest(mac, _mac(chip, ciphertext + iv)):
        raise DecodeError("the sealed identity's MAC does not match this chip")
    version, *fields = _PLAIN.unpack(_ctr(chip, iv, ciphertext))
    if version != _VERSION:
        raise DecodeError(f"sealed identity version {version} is not {_VERSION}")
    return Identity(*(_pair(scalar, encoded) for scalar, encoded in zip(fields[:3], fields[3:], strict=True)))


def _pair(scalar: bytes, encoded: bytes) -> KeyPair:
    value = int.from_bytes(scalar, "big")
    if not 0 < value < P384_ORDER:
        raise DecodeError("the sealed identity holds no valid key")
    return KeyPair(ec.derive_private_key(value, ec.SECP384R1()), cert.Certificate.decode(encoded))


def _ctr(chip: Chip, iv: bytes, data: bytes) -> bytes:
    return aes_ctr(chip.seal_key("sealpod-identity-encryption"), iv, data)


def _mac(chip: Chip, data: bytes) -> bytes:
    return hmac_sha256(chip.seal_key("sealpod-identity-mac"), data)
