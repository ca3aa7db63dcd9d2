# SPDX-License-Identifier: Apache-2.0
"""The SEV certificate, version 1: PDH, PEK, OCA, CEK and the guest owner's key (SEV API, appendix C).

2084 bytes, little-endian::

    off    len   field
    0x000    4   VERSION, 1
    0x004    1   API_MAJOR   } of the firmware that made it
    0x005    1   API_MINOR   }
    0x006    2   reserved
    0x008    4   PUBKEY_USAGE
    0x00C    4   PUBKEY_ALGO
    0x010 1028   PUBKEY (:mod:`sealpod.sev.pubkey`)
    0x414    4   SIG1_USAGE  } of the signing key; 0x1000 and 0
    0x418    4   SIG1_ALGO   } when the slot is empty
    0x41C  512   SIG1
    0x61C  520   the same for SIG2

Both signatures are over the first 1044 bytes. Who must sign whom is :mod:`sealpod.sev.chain`'s matter.
A decoded certificate keeps every byte, so that encoding gives back what came. No signature covers the slots
themselves; where every byte has to count, ask :meth:`Certificate.require_canonical`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sealpod.errors import DecodeError, UsageError, VerificationError
from sealpod.sev.pubkey import PUBKEY_SIZE, decode_public_key, encode_public_key
from sealpod.sev.signature import (
    ECDSA_SIZE,
    SIGNATURE_SIZE,
    Algorithm,
    SigningKey,
    Usage,
    VerifyingKey,
    sign_bytes,
    verify_bytes,
)

__all__ = ["BODY_SIZE", "SIZE", "Algorithm", "Certificate", "Signature", "Usage", "make", "sign"]

VERSION: Final = 1

_BODY = struct.Struct(f"<IBBHII{PUBKEY_SIZE}s")
_SLOT = struct.Struct(f"<II{SIGNATURE_SIZE}s")
_SIGNING: Final = tuple(algorithm for algorithm in Algorithm if algorithm.signs)
_SIGNERS: Final = (Usage.ARK, Usage.ASK, Usage.OCA, Usage.PEK, Usage.PDH, Usage.CEK)

BODY_SIZE: Final = _BODY.size
"""1044 bytes: the signed part."""
SIZE: Final = BODY_SIZE + 2 * _SLOT.size
"""2084 bytes: a whole certificate."""


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature slot. ``usage`` and ``algorithm`` are the signing key's and may be unknown numbers."""

    usage: int = Usage.INVALID
    algorithm: int = Algorithm.NONE
    raw: bytes = bytes(SIGNATURE_SIZE)

    def encode(self) -> bytes:
        """520 bytes."""
        return _SLOT.pack(self.usage, self.algorithm, self.raw)

    @property
    def is_plausible(self) -> bool:
        """Whether the slot names a signer and a signing algorithm and is padded as that one needs."""
        if self.usage not in _SIGNERS or self.algorithm not in _SIGNING:
            return False
        return Algorithm(self.algorithm).is_rsa or not any(self.raw[ECDSA_SIZE:])


@dataclass(frozen=True, slots=True)
class Certificate:
    """A decoded certificate; its key is checked only when :meth:`public_key` is called."""

    usage: Usage
    algorithm: Algorithm
    pubkey: bytes
    """The 1028-byte key field as it stands."""
    signatures: tuple[Signature, Signature] = (Signature(), Signature())
    api: tuple[int, int] = (0, 0)
    reserved: int = 0

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """A certificate from exactly 2084 bytes.

        :raise DecodeError: wrong length, version, usage or algorithm.
        """
        if len(data) != SIZE:
            raise _malformed(f"an SEV certificate has {SIZE} bytes, got {len(data)}")
        version, major, minor, reserved, usage, algorithm, pubkey = _BODY.unpack_from(data)
        if version != VERSION:
            raise _malformed(f"SEV certificate version {version} is not {VERSION}")
        first, second = (Signature(*_SLOT.unpack_from(data, BODY_SIZE + n * _SLOT.size)) for n in (0, 1))
        return cls(
            usage=_usage(usage),
            algorithm=_algorithm(algorithm),
            pubkey=pubkey,
            signatures=(first, second),
            api=(major, minor),
            reserved=reserved,
        )

    def encode(self) -> bytes:
        """2084 bytes."""
        return self.body + self.signatures[0].encode() + self.signatures[1].encode()

    @property
    def body(self) -> bytes:
        """The 1044 signed bytes."""
        return _BODY.pack(VERSION, *self.api, self.reserved, self.usage, self.algorithm, self.pubkey)

    def verifying_key(self) -> VerifyingKey:
        """The key, elliptic curve or RSA as the algorithm says.

        :raise DecodeError: the field holds no such key; a point that is not on its curve, padding.
        """
        try:
            return decode_public_key(self.pubkey, self.algorithm)
        except DecodeError as error:
            raise _malformed(f"{self.usage.name} certificate: {error.message}") from None

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The elliptic curve key: what every key made by SEV firmware is.

        :raise DecodeError: no such key, or an RSA key.
        """
        key = self.verifying_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise _malformed(f"{self.usage.name} certificate: an RSA key in place of an elliptic curve one")
        return key

    def require_canonical(self) -> None:
        """Check every byte no signature covers (the slots), the reserved field, and that there is a key.

        A slot is empty (usage 0x1000, algorithm 0, zeros) or names a signer and a signing algorithm.

        :raise DecodeError: a byte that firmware would not have written there.
        """
        if self.reserved:
            raise _malformed(f"{self.usage.name} certificate: reserved bytes are not zero")
        self.verifying_key()
        for number, slot in enumerate(self.signatures, 1):
            if slot != Signature() and not slot.is_plausible:
                raise _malformed(f"{self.usage.name} certificate: signature slot {number} is malformed")

    def verify_signed_by(self, key: VerifyingKey, usage: Usage, algorithm: Algorithm) -> None:
        """Check that one of the slots is a valid signature of this issuer.

        The slot must name the issuer's usage and algorithm (SEV firmware's rule).

        :raise VerificationError: there is no such slot, or it does not verify.
        """
        slots = [slot for slot in self.signatures if (slot.usage, slot.algorithm) == (usage, algorithm)]
        if not slots:
            raise VerificationError(
                f"{self.usage.name} certificate has no {usage.name} signature", code="sev.unsigned"
            )
        for slot in slots[:-1]:
            try:
                return verify_bytes(key, algorithm, self.body, slot.raw)
            except VerificationError:
                continue
        return verify_bytes(key, algorithm, self.body, slots[-1].raw)


def make(
    public_key: VerifyingKey,
    usage: Usage,
    algorithm: Algorithm,
    *,
    api: tuple[int, int] = (0, 0),
) -> Certificate:
    """An unsigned certificate: both slots empty (usage 0x1000, algorithm 0).

    :raise UsageError: the key cannot stand in an SEV certificate, or the algorithm is not one of its kind.
    """
    if algorithm is Algorithm.NONE or algorithm.is_rsa != isinstance(public_key, rsa.RSAPublicKey):
        raise UsageError(f"{algorithm.name} is not an algorithm of this key", code="sev.algorithm")
    return Certificate(usage=usage, algorithm=algorithm, pubkey=encode_public_key(public_key), api=api)


def sign(cert: Certificate, key: SigningKey, usage: Usage, algorithm: Algorithm, slot: int) -> Certificate:
    """The certificate with slot 0 or 1 signed by ``key``, whose own usage and algorithm are given.

    ``key`` is an EC key (OCA, PEK, CEK) or an RSA key (the ASK, which signs the CEK).

    :raise UsageError: the algorithm is not the key's, or there is no such slot.
    """
    if slot not in (0, 1):
        raise UsageError(f"a certificate has signature slots 0 and 1, not {slot}", code="sev.slot")
    signature = Signature(usage, algorithm, sign_bytes(key, algorithm, cert.body))
    first, second = cert.signatures
    return replace(cert, signatures=(first, signature) if slot else (signature, second))


def _usage(number: int) -> Usage:
    try:
        return Usage(number)
    except ValueError:
        raise _malformed(f"SEV certificate has unknown usage {number:#06x}") from None


def _algorithm(number: int) -> Algorithm:
    try:
        return Algorithm(number)
    except ValueError:
        raise _malformed(f"SEV certificate has unknown algorithm {number:#06x}") from None


def _malformed(message: str) -> DecodeError:
    return DecodeError(message, code="cert.malformed")
