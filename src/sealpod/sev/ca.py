# SPDX-License-Identifier: Apache-2.0
"""AMD's certificate authority certificates: ARK and ASK (SEV API, appendix B.1).

Little-endian, N = 256 or 512 bytes::

    off      len  field
    0x00       4  VERSION, 1
    0x04      16  KEY_ID
    0x14      16  CERTIFYING_ID: KEY_ID of the signer
    0x24       4  KEY_USAGE: ARK 0x0000, ASK 0x0013
    0x28      16  reserved
    0x38       4  PUBEXP_SIZE in bits   } both 2048 or both 4096
    0x3C       4  MODULUS_SIZE in bits  }
    0x40       N  PUBEXP, 65537
    0x40+N     N  MODULUS
    0x40+2N    N  SIGNATURE over all before it: RSA-PSS, SHA-256 for 2048 bits, SHA-384 for 4096

The first file AMD published for Naples' ARK lacks the signature. Exactly that body at the end of the input
is completed with the known signature; every other truncated certificate is refused.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, replace
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric import rsa

from sealpod.errors import DecodeError, UsageError, VerificationError
from sealpod.sev.roots import NAPLES_ARK_BODY_SHA256, NAPLES_ARK_SIGNATURE
from sealpod.sev.signature import SIGNATURE_SIZE, Algorithm, Usage, sign_bytes, verify_bytes

VERSION: Final = 1
KEY_ID_SIZE: Final = 16
PUBLIC_EXPONENT: Final = 65537
_RESERVED: Final = bytes(16)
_HEADER = struct.Struct("<I16s16sI16sII")
_ALGORITHM_OF_BITS: Final = {2048: Algorithm.RSA_SHA256, 4096: Algorithm.RSA_SHA384}


@dataclass(frozen=True, slots=True)
class CaCertificate:
    """A decoded ARK or ASK. ``modulus`` and ``signature`` are the stored little-endian bytes."""

    usage: Usage
    key_id: bytes
    certifying_id: bytes
    modulus: bytes
    signature: bytes

    @classmethod
    def decode(cls, data: bytes) -> tuple[Self, int]:
        """The certificate at the start of ``data`` and the number of bytes it took: 832 or 1600.

        :raise DecodeError: truncated, or a field no ARK or ASK has.
        """
        if len(data) < _HEADER.size:
            raise _malformed(f"{len(data)} bytes cannot hold an ARK or ASK")
        version, key_id, certifying_id, usage, reserved, exponent_bits, bits = _HEADER.unpack_from(data)
        if version != VERSION or reserved != _RESERVED or usage not in (Usage.ARK, Usage.ASK):
            raise _malformed("not an ARK or ASK: unknown version or usage")
        if bits not in _ALGORITHM_OF_BITS or exponent_bits != bits:
            raise _malformed(f"ARK or ASK key of {bits} bits with an exponent of {exponent_bits} bits")
        size = bits // 8
        body_end = _HEADER.size + 2 * size
        signature = bytes(data[body_end : body_end + size]) or _missing_signature(data)
        if len(data) < body_end or len(signature) != size:
            raise _malformed(f"ARK or ASK is truncated: {len(data)} of {body_end + size} bytes")
        if int.from_bytes(data[_HEADER.size : body_end - size], "little") != PUBLIC_EXPONENT:
            raise _malformed(f"ARK or ASK exponent is not {PUBLIC_EXPONENT}")
        modulus = bytes(data[body_end - size : body_end])
        if not modulus[-1] & 0x80 or not modulus[0] & 1:
            raise _malformed("ARK or ASK modulus is not a full-size odd number")
        cert = cls(Usage(usage), key_id, certifying_id, modulus, signature)
        return cert, min(body_end + size, len(data))

    @property
    def body(self) -> bytes:
        """The signed bytes: 64 + 2N."""
        size = len(self.modulus)
        header = _HEADER.pack(
            VERSION, self.key_id, self.certifying_id, self.usage, _RESERVED, 8 * size, 8 * size
        )
        return header + PUBLIC_EXPONENT.to_bytes(size, "little") + self.modulus

    def encode(self) -> bytes:
        """832 or 1600 bytes."""
        return self.body + self.signature

    @property
    def algorithm(self) -> Algorithm:
        """What this key signs with: RSA_SHA256 for 2048 bits, RSA_SHA384 for 4096."""
        return _ALGORITHM_OF_BITS[8 * len(self.modulus)]

    @property
    def sha256(self) -> str:
        """Lower-case hex SHA-256 of the certificate's bytes: how a root is pinned."""
        return hashlib.sha256(self.encode()).hexdigest()

    def public_key(self) -> rsa.RSAPublicKey:
        """The RSA key."""
        return rsa.RSAPublicNumbers(PUBLIC_EXPONENT, int.from_bytes(self.modulus, "little")).public_key()

    def verify_signed_by(self, issuer: CaCertificate) -> None:
        """Check the signature and that CERTIFYING_ID names the issuer.

        :raise VerificationError: either does not hold.
        """
        if self.certifying_id != issuer.key_id:
            raise VerificationError(
                f"{self.usage.name} names another issuer than this {issuer.usage.name}", code="sev.issuer"
            )
        raw = self.signature.ljust(SIGNATURE_SIZE, b"\0")
        verify_bytes(issuer.public_key(), issuer.algorithm, self.body, raw)


def make_ca(
    key: rsa.RSAPublicKey,
    usage: Usage,
    key_id: bytes,
    certifying_id: bytes,
    signer_key: rsa.RSAPrivateKey,
) -> CaCertificate:
    """An ARK (``signer_key`` is its own) or an ASK (signed by the ARK's key).

    Key and signer have the same size, 2048 or 4096 bits: the signature field is as long as the modulus.

    :raise UsageError: other sizes, another exponent, or ids that are not 16 bytes.
    """
    numbers = key.public_numbers()
    if key.key_size not in _ALGORITHM_OF_BITS or numbers.e != PUBLIC_EXPONENT:
        raise UsageError(f"an ARK or ASK has 2048 or 4096 bits and exponent {PUBLIC_EXPONENT}")
    if signer_key.key_size != key.key_size:
        raise UsageError("ARK and ASK must have keys of the same size")
    if len(key_id) != KEY_ID_SIZE or len(certifying_id) != KEY_ID_SIZE:
        raise UsageError(f"key ids have {KEY_ID_SIZE} bytes")
    modulus = numbers.n.to_bytes(key.key_size // 8, "little")
    unsigned = CaCertificate(usage, key_id, certifying_id, modulus, b"")
    raw = sign_bytes(signer_key, unsigned.algorithm, unsigned.body)
    return replace(unsigned, signature=raw[: len(modulus)])


def _missing_signature(data: bytes) -> bytes:
    known = hashlib.sha256(data).hexdigest() == NAPLES_ARK_BODY_SHA256
    return NAPLES_ARK_SIGNATURE if known else b""


def _malformed(message: str) -> DecodeError:
    return DecodeError(message, code="cert.malformed")
