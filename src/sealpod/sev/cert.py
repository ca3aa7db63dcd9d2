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
    0x010 1028   PUBKEY: curve u32 (1 P-256, 2 P-384), X 72, Y 72, zeros
    0x414    4   SIG1_USAGE  } of the signing key; 0x1000 and 0
    0x418    4   SIG1_ALGO   } when the slot is empty
    0x41C  512   SIG1
    0x61C  520   the same for SIG2

Both signatures are over the first 1044 bytes. Who must sign whom is :mod:`sealpod.sev.chain`'s matter.
A decoded certificate keeps every byte, so that encoding gives back what came.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric import ec

from sealpod.errors import DecodeError, UsageError, VerificationError
from sealpod.sev.signature import (
    COMPONENT_SIZE,
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
PUBKEY_SIZE: Final = 1028

_BODY = struct.Struct(f"<IBBHII{PUBKEY_SIZE}s")
_SLOT = struct.Struct(f"<II{SIGNATURE_SIZE}s")
_CURVE_ID = struct.Struct("<I")
_COORDINATES_END: Final = _CURVE_ID.size + 2 * COMPONENT_SIZE
_CURVES: Final[dict[int, type[ec.EllipticCurve]]] = {1: ec.SECP256R1, 2: ec.SECP384R1}

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

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The elliptic curve key.

        :raise DecodeError: unknown curve, non-zero padding, or a point that is not on the curve.
        """
        (curve_id,) = _CURVE_ID.unpack_from(self.pubkey)
        if curve_id not in _CURVES or any(self.pubkey[_COORDINATES_END:]):
            raise _malformed(f"{self.usage.name} certificate: no elliptic curve key this version knows")
        first, second = _CURVE_ID.size, _CURVE_ID.size + COMPONENT_SIZE
        x = int.from_bytes(self.pubkey[first:second], "little")
        y = int.from_bytes(self.pubkey[second:_COORDINATES_END], "little")
        try:
            return ec.EllipticCurvePublicNumbers(x, y, _CURVES[curve_id]()).public_key()
        except ValueError:
            raise _malformed(f"{self.usage.name} certificate: key is not a point on its curve") from None

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
    public_key: ec.EllipticCurvePublicKey,
    usage: Usage,
    algorithm: Algorithm,
    *,
    api: tuple[int, int] = (0, 0),
) -> Certificate:
    """An unsigned certificate: both slots empty (usage 0x1000, algorithm 0).

    :raise UsageError: the key's curve cannot stand in an SEV certificate.
    """
    numbers = public_key.public_numbers()
    for curve_id, curve in _CURVES.items():
        if isinstance(numbers.curve, curve):
            x = numbers.x.to_bytes(COMPONENT_SIZE, "little")
            y = numbers.y.to_bytes(COMPONENT_SIZE, "little")
            pubkey = (_CURVE_ID.pack(curve_id) + x + y).ljust(PUBKEY_SIZE, b"\0")
            return Certificate(usage=usage, algorithm=algorithm, pubkey=pubkey, api=api)
    raise UsageError(f"SEV certificates cannot hold a key on {numbers.curve.name}", code="sev.curve")


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
