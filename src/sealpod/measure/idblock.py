# SPDX-License-Identifier: Apache-2.0
"""ID block and ID authentication of SEV-SNP guests (SNP firmware ABI, LAUNCH_FINISH).

The block says which guest may start: the firmware refuses another launch digest or policy, and puts the ids
into the attestation report. The authentication is the guest owner's signature over it, by a key that another
key, the author's, may vouch for. All numbers are little-endian::

    ID block, 96 bytes           ID authentication, 4096 bytes
      0  48  launch digest          0    4  id key's algorithm: 1, ECDSA P-384 with SHA-384
     48  16  family id              4    4  author key's algorithm: 1
     64  16  image id              64  512  signature over the ID block by the id key
     80   4  version: 1           576 1028  id key
     84   4  guest SVN           1664  512  signature over the id key's 1028 bytes by the author key
     88   8  policy              2176 1028  author key, or zeros

    public key, 1028 bytes       signature, 512 bytes
      0   4  curve: 2, P-384        0   72  R
      4  72  X                     72   72  S
     76  72  Y

A key's digest, as the report has it, is SHA-384 of its 1028 bytes.
"""

from __future__ import annotations

import hashlib
from struct import Struct
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from sealpod.errors import DecodeError, UsageError, VerificationError
from sealpod.record import Record

BLOCK_SIZE: Final = 96
AUTH_SIZE: Final = 4096
KEY_SIZE: Final = 1028
SIGNATURE_SIZE: Final = 512
DEFAULT_POLICY: Final = 0x30000
"""SMT allowed and the bit that must be one; no debugging, no migration. QEMU's default."""
MUST_BE_ONE: Final = 1 << 17
"""The bit of the policy that is reserved and 1."""
ECDSA_P384_SHA384: Final = 1
_P384: Final = 2
_COMPONENT: Final = 72

_BLOCK: Final = Struct("<48s16s16sIIQ")
_AUTH: Final = Struct("<II56x512s1028s60x512s1028s892x")
_NO_KEY: Final = bytes(KEY_SIZE)


class IdBlock(Record):
    """Which guest may start."""

    launch_digest: bytes
    family_id: bytes = bytes(16)
    image_id: bytes = bytes(16)
    version: int = 1
    guest_svn: int = 0
    policy: int = DEFAULT_POLICY

    def encode(self) -> bytes:
        """96 bytes.

        :raise UsageError: a field that does not fit.
        """
        sizes = {"launch digest": (self.launch_digest, 48)}
        sizes |= {"family id": (self.family_id, 16), "image id": (self.image_id, 16)}
        for name, (value, size) in sizes.items():
            if len(value) != size:
                raise UsageError(f"the {name} has {len(value)} bytes, not {size}", code="idblock.field")
        widths = {"version": (self.version, 32), "guest SVN": (self.guest_svn, 32)}
        widths |= {"policy": (self.policy, 64)}
        for name, (number, bits) in widths.items():
            if not 0 <= number < 1 << bits:
                raise UsageError(f"the {name} {number} does not fit {bits} bits", code="idblock.field")
        return _BLOCK.pack(*self._values())

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read a block back.

        :raise DecodeError: not 96 bytes.
        """
        if len(raw) != BLOCK_SIZE:
            raise DecodeError(f"an ID block of {len(raw)} bytes, not {BLOCK_SIZE}", code="idblock.malformed")
        return cls(*_BLOCK.unpack(raw))


class IdAuth(Record):
    """The signatures; keys and signatures as they are stored."""

    block_signature: bytes
    id_key: bytes
    key_signature: bytes = bytes(SIGNATURE_SIZE)
    author_key: bytes = _NO_KEY

    @property
    def has_author(self) -> bool:
        """Whether an author's key vouches for the id key."""
        return self.author_key != _NO_KEY

    def encode(self) -> bytes:
        """4096 bytes."""
        return _AUTH.pack(ECDSA_P384_SHA384, ECDSA_P384_SHA384, *self._values())

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read an authentication back.

        :raise DecodeError: another size, algorithm, or bytes where zeros belong.
        """
        if len(raw) != AUTH_SIZE:
            raise DecodeError(
                f"an ID authentication of {len(raw)} bytes, not {AUTH_SIZE}", code="idblock.malformed"
            )
        id_algorithm, author_algorithm, *fields = _AUTH.unpack(raw)
        if (id_algorithm, author_algorithm) != (ECDSA_P384_SHA384, ECDSA_P384_SHA384):
            raise DecodeError("an algorithm SEV-SNP does not have", code="idblock.malformed")
        if _AUTH.pack(id_algorithm, author_algorithm, *fields) != raw:
            raise DecodeError("bytes where the ID authentication has zeros", code="idblock.malformed")
        return cls(*fields)


def authenticate(
    block: IdBlock, id_key: ec.EllipticCurvePrivateKey, author_key: ec.EllipticCurvePrivateKey | None
) -> IdAuth:
    """Sign a block. Signatures are deterministic (RFC 6979): the same inputs give the same bytes.

    :raise UsageError: a key on another curve, or a field of the block that does not fit.
    """
    public = encode_key(id_key.public_key())
    signature = _sign(id_key, block.encode())
    if author_key is None:
        return IdAuth(signature, public)
    author = encode_key(author_key.public_key())
    return IdAuth(signature, public, _sign(author_key, public), author)


def verify(block: bytes, auth: bytes) -> IdAuth:
    """What the firmware checks of the signatures, in its order.

    :raise DecodeError: block or authentication are malformed.
    :raise VerificationError: a signature does not match.
    """
    # 1. Both have their form.
    IdBlock.decode(block)
    found = IdAuth.decode(auth)
    # 2. The id key signs the block.
    _check(found.id_key, block, found.block_signature, "block")
    # 3. The author's key, where there is one, signs the id key.
    if found.has_author:
        _check(found.author_key, found.id_key, found.key_signature, "id key")
    elif any(found.key_signature):
        raise VerificationError("a signature over the id key, but no author's key", code="idblock.signature")
    return found


def key_digest(key: bytes) -> bytes:
    """The digest of an encoded key, 48 bytes, as the attestation report has it."""
    return hashlib.sha384(key).digest()


def encode_key(key: ec.EllipticCurvePublicKey) -> bytes:
    """1028 bytes of public key.

    :raise UsageError: not a key on P-384.
    """
    if not isinstance(key.curve, ec.SECP384R1):
        raise UsageError(
            "SNP only supports the EC curve P-384",
            code="idblock.key",
            remedy="make one: openssl ecparam -name secp384r1 -genkey -noout",
        )
    point = key.public_numbers()
    parts = (_P384.to_bytes(4, "little"), _component(point.x), _component(point.y))
    return b"".join(parts).ljust(KEY_SIZE, b"\0")


def decode_key(raw: bytes) -> ec.EllipticCurvePublicKey:
    """The key of 1028 bytes.

    :raise DecodeError: not a point on P-384.
    """
    head, x, y = raw[:4], raw[4 : 4 + _COMPONENT], raw[4 + _COMPONENT : 4 + 2 * _COMPONENT]
    if len(raw) != KEY_SIZE or any(raw[4 + 2 * _COMPONENT :]) or int.from_bytes(head, "little") != _P384:
        raise DecodeError("not a key on P-384", code="idblock.malformed")
    numbers = ec.EllipticCurvePublicNumbers(
        int.from_bytes(x, "little"), int.from_bytes(y, "little"), ec.SECP384R1()
    )
    try:
        return numbers.public_key()
    except ValueError:
        raise DecodeError("not a point on P-384", code="idblock.malformed") from None


def _component(value: int) -> bytes:
    return value.to_bytes(_COMPONENT, "little")


def _sign(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(SHA384(), deterministic_signing=True)))
    return (_component(r) + _component(s)).ljust(SIGNATURE_SIZE, b"\0")


def _check(key: bytes, message: bytes, signature: bytes, what: str) -> None:
    r, s = (int.from_bytes(signature[at : at + _COMPONENT], "little") for at in (0, _COMPONENT))
    if any(signature[2 * _COMPONENT :]):
        raise VerificationError(f"the signature over the {what} has bytes too many", code="idblock.signature")
    try:
        decode_key(key).verify(encode_dss_signature(r, s), message, ec.ECDSA(SHA384()))
    except InvalidSignature:
        raise VerificationError(
            f"the signature over the {what} does not match", code="idblock.signature"
        ) from None
