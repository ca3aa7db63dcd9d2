# SPDX-License-Identifier: Apache-2.0
"""Signatures and key ids as SEV certificates store them (SEV API, certificate formats).

Every number is little-endian. An ECDSA signature is R and S in 72 bytes each, padded with zeros to 512; an
RSA one is the modulus-sized PSS value (MGF1 and salt of the same hash, salt as long as the digest),
reversed and padded to 512. Padding that is not zero is refused, so that no byte of a signature is free.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, HashAlgorithm

from sealpod.errors import UsageError, VerificationError

SIGNATURE_SIZE: Final = 512
"""Bytes of the signature field of a certificate."""
COMPONENT_SIZE: Final = 72
"""Bytes of one ECDSA component or curve coordinate in a certificate."""
ECDSA_SIZE: Final = 2 * COMPONENT_SIZE
"""Bytes of R and S; what follows them in a signature field is zero."""

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
VerifyingKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class Usage(IntEnum):
    """What a key is for."""

    ARK = 0x0000
    """AMD root key."""
    ASK = 0x0013
    """AMD SEV signing key, signed by the ARK."""
    INVALID = 0x1000
    """Marks an empty signature slot."""
    OCA = 0x1001
    """Owner's certificate authority."""
    PEK = 0x1002
    """Platform endorsement key, signed by OCA and CEK."""
    PDH = 0x1003
    """Platform Diffie-Hellman key, signed by the PEK; the guest owner's key has this usage too."""
    CEK = 0x1004
    """Chip endorsement key, signed by the ASK."""


class Algorithm(IntEnum):
    """What a key does and with which hash."""

    NONE = 0x0000
    RSA_SHA256 = 0x0001
    ECDSA_SHA256 = 0x0002
    ECDH_SHA256 = 0x0003
    RSA_SHA384 = 0x0101
    ECDSA_SHA384 = 0x0102
    ECDH_SHA384 = 0x0103

    @property
    def hash_bits(self) -> int:
        """256 or 384; 0 without an algorithm."""
        if self is Algorithm.NONE:
            return 0
        return 384 if self & 0x0100 else 256

    @property
    def is_rsa(self) -> bool:
        """Whether the key is an RSA one."""
        return self in _RSA

    @property
    def signs(self) -> bool:
        """Whether the key may vouch for others."""
        return self in _RSA or self in _ECDSA

    @property
    def agrees(self) -> bool:
        """Whether the key is for key agreement only."""
        return self in (Algorithm.ECDH_SHA256, Algorithm.ECDH_SHA384)


_RSA: Final[dict[int, type[HashAlgorithm]]] = {Algorithm.RSA_SHA256: SHA256, Algorithm.RSA_SHA384: SHA384}
_ECDSA: Final[dict[int, type[HashAlgorithm]]] = {
    Algorithm.ECDSA_SHA256: SHA256,
    Algorithm.ECDSA_SHA384: SHA384,
}


def sign_bytes(key: SigningKey, algorithm: Algorithm, message: bytes) -> bytes:
    """512 bytes of signature. ECDSA is deterministic (RFC 6979); PSS salts itself.

    :raise UsageError: the algorithm does not belong to the key.
    """
    if isinstance(key, rsa.RSAPrivateKey) and algorithm in _RSA:
        value = key.sign(message, *_pss(_RSA[algorithm]()))
        return value[::-1].ljust(SIGNATURE_SIZE, b"\0")
    if isinstance(key, ec.EllipticCurvePrivateKey) and algorithm in _ECDSA:
        scheme = ec.ECDSA(_ECDSA[algorithm](), deterministic_signing=True)
        parts = decode_dss_signature(key.sign(message, scheme))
        return b"".join(part.to_bytes(COMPONENT_SIZE, "little") for part in parts).ljust(
            SIGNATURE_SIZE, b"\0"
        )
    raise UsageError(f"{algorithm.name} is not an algorithm of this key", code="sev.algorithm")


def verify_bytes(key: VerifyingKey, algorithm: int, message: bytes, raw: bytes) -> None:
    """Check 512 bytes of signature over ``message``.

    :raise VerificationError: wrong signature, non-zero padding, or an algorithm that is not the key's.
    """
    try:
        if isinstance(key, rsa.RSAPublicKey) and algorithm in _RSA:
            key.verify(_rsa_value(raw, key.key_size // 8), message, *_pss(_RSA[algorithm]()))
            return
        if isinstance(key, ec.EllipticCurvePublicKey) and algorithm in _ECDSA:
            key.verify(_ecdsa_value(raw), message, ec.ECDSA(_ECDSA[algorithm]()))
            return
    except InvalidSignature:
        raise VerificationError("the signature does not match", code="sev.signature") from None
    raise VerificationError(f"algorithm {algorithm:#06x} is not one of the key", code="sev.algorithm")


def _pss(digest: HashAlgorithm) -> tuple[padding.PSS, HashAlgorithm]:
    return padding.PSS(mgf=padding.MGF1(digest), salt_length=digest.digest_size), digest


def _rsa_value(raw: bytes, size: int) -> bytes:
    if len(raw) != SIGNATURE_SIZE or any(raw[size:]):
        raise InvalidSignature
    return raw[:size][::-1]


def _ecdsa_value(raw: bytes) -> bytes:
    if len(raw) != SIGNATURE_SIZE or any(raw[ECDSA_SIZE:]):
        raise InvalidSignature
    r = int.from_bytes(raw[:COMPONENT_SIZE], "little")
    s = int.from_bytes(raw[COMPONENT_SIZE:ECDSA_SIZE], "little")
    return encode_dss_signature(r, s)
