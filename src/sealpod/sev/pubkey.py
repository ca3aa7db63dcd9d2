# SPDX-License-Identifier: Apache-2.0
"""The public key field of an SEV certificate: elliptic curve or RSA (SEV API, appendix C, PUBKEY).

1028 bytes, little-endian; which of the two it is, the certificate's algorithm says::

    elliptic curve                              RSA
    off  len  field                             off  len  field
      0    4  CURVE: 1 P-256, 2 P-384             0    4  MODULUS_SIZE in bits: 2048 or 4096
      4   72  QX                                  4  512  PUBEXP
     76   72  QY                                516  512  MODULUS
    148  880  zeros

Numbers shorter than their field are padded with zeros at the high end; other numbers are refused. What
stands behind the coordinates is nobody's: firmware does not look there, and the owner's certificates that
sevctl 0.6.2 makes have whatever lay in its memory. The certificate's signatures cover it like the rest.
"""

from __future__ import annotations

import struct
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sealpod.errors import DecodeError, UsageError
from sealpod.sev.signature import COMPONENT_SIZE, Algorithm, VerifyingKey

PUBKEY_SIZE: Final = 1028
RSA_BITS: Final = (2048, 4096)
"""The sizes of RSA keys SEV knows."""

_ID = struct.Struct("<I")
_COORDINATES_END: Final = _ID.size + 2 * COMPONENT_SIZE
_RSA_FIELD: Final = 512
_CURVES: Final[dict[int, type[ec.EllipticCurve]]] = {1: ec.SECP256R1, 2: ec.SECP384R1}
# Larger exponents are slow to verify with and serve nobody; cryptography refuses even and tiny ones.
_MAX_EXPONENT: Final = 1 << 32


def encode_public_key(key: VerifyingKey) -> bytes:
    """1028 bytes.

    :raise UsageError: a curve or a size SEV certificates cannot hold.
    """
    if isinstance(key, rsa.RSAPublicKey):
        return _encode_rsa(key)
    numbers = key.public_numbers()
    for curve_id, curve in _CURVES.items():
        if isinstance(numbers.curve, curve):
            x = numbers.x.to_bytes(COMPONENT_SIZE, "little")
            y = numbers.y.to_bytes(COMPONENT_SIZE, "little")
            return (_ID.pack(curve_id) + x + y).ljust(PUBKEY_SIZE, b"\0")
    raise UsageError(f"SEV certificates cannot hold a key on {numbers.curve.name}", code="sev.curve")


def decode_public_key(data: bytes, algorithm: Algorithm) -> VerifyingKey:
    """The key in a certificate's key field (1028 bytes).

    :raise DecodeError: no key of this algorithm: unknown curve or size, a point off its curve, an impossible
        RSA number, or one too large for its size.
    """
    if len(data) != PUBKEY_SIZE:
        raise _malformed(f"a key field has {PUBKEY_SIZE} bytes, got {len(data)}")
    if algorithm.is_rsa:
        return _decode_rsa(data)
    if algorithm is Algorithm.NONE:
        raise _malformed("a certificate without an algorithm holds no key")
    return _decode_ec(data)


def _decode_ec(data: bytes) -> ec.EllipticCurvePublicKey:
    (curve_id,) = _ID.unpack_from(data)
    if curve_id not in _CURVES:
        raise _malformed("no elliptic curve key this version knows")
    middle = _ID.size + COMPONENT_SIZE
    x = int.from_bytes(data[_ID.size : middle], "little")
    y = int.from_bytes(data[middle:_COORDINATES_END], "little")
    try:
        return ec.EllipticCurvePublicNumbers(x, y, _CURVES[curve_id]()).public_key()
    except ValueError:
        raise _malformed("the key is not a point on its curve") from None


def _encode_rsa(key: rsa.RSAPublicKey) -> bytes:
    numbers = key.public_numbers()
    if key.key_size not in RSA_BITS or numbers.e >= _MAX_EXPONENT:
        raise UsageError("an RSA key in an SEV certificate has 2048 or 4096 bits", code="sev.rsa-size")
    exponent = numbers.e.to_bytes(_RSA_FIELD, "little")
    return _ID.pack(key.key_size) + exponent + numbers.n.to_bytes(_RSA_FIELD, "little")


def _decode_rsa(data: bytes) -> rsa.RSAPublicKey:
    (bits,) = _ID.unpack_from(data)
    exponent = int.from_bytes(data[_ID.size : _ID.size + _RSA_FIELD], "little")
    modulus = int.from_bytes(data[_ID.size + _RSA_FIELD :], "little")
    if bits not in RSA_BITS or modulus.bit_length() != bits or not modulus & 1:
        raise _malformed("no RSA key of 2048 or 4096 bits")
    if exponent >= _MAX_EXPONENT:
        raise _malformed("an RSA key with an oversized exponent")
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError:
        raise _malformed("impossible RSA numbers") from None


def _malformed(message: str) -> DecodeError:
    return DecodeError(message, code="cert.malformed")
