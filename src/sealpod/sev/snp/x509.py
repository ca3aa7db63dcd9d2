# SPDX-License-Identifier: Apache-2.0
"""X.509 certificates as AMD issues them for SEV-SNP (RFC 5280; AMD's VCEK and KDS interface specification).

The certificates of chip keys have the serial number 0, which RFC 5280 forbids. cryptography warns of it today
and will refuse it in a later release, so the fields are read here (:mod:`sealpod.sev.snp.der`); keys and
signatures stay cryptography's. Every certificate authority is an RSA key of 4096 bits that signs with
RSASSA-PSS, SHA-384 and a salt of 48 bytes. Another scheme does not verify, whatever the certificate says.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import load_der_public_key

from sealpod.errors import VerificationError
from sealpod.sev.snp import der
from sealpod.sev.snp.der import Element, Reader, malformed

MAX_SIZE: Final = 1 << 14
"""Bytes of one certificate; AMD's have about 1700."""
MAX_FILE_SIZE: Final = 1 << 17
"""Bytes of a file of certificates, in PEM or DER."""

_VERSION = 0xA0
_EXTENSIONS = 0xA3
_ISSUER_ID, _SUBJECT_ID = 0x81, 0x82
_PSS: Final = der.oid("1.2.840.113549.1.1.10")
_COMMON_NAME: Final = der.oid("2.5.4.3")
_BASIC_CONSTRAINTS: Final = der.oid("2.5.29.19")
_KEY_USAGE: Final = der.oid("2.5.29.15")
_CA_KEY_BITS: Final = 4096
_STRINGS: Final = (der.UTF8_STRING, der.PRINTABLE_STRING, der.IA5_STRING)
_PEM = re.compile(
    rb"-----BEGIN CERTIFICATE-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END CERTIFICATE-----(?:\r?\n|$)"
)
_TIME_DIGITS: Final = {der.UTC_TIME: 12, der.GENERALIZED_TIME: 14}


@dataclass(frozen=True, slots=True)
class X509:
    """A decoded certificate, its signature not yet verified."""

    encoded: bytes = field(repr=False)
    signed: bytes = field(repr=False)
    """The part the signature is over."""
    signature: bytes = field(repr=False)
    issuer: bytes = field(repr=False)
    subject: bytes = field(repr=False)
    common_name: str
    """The subject's, as ``SEV-VCEK``."""
    not_before: datetime
    not_after: datetime
    public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey = field(repr=False)
    is_authority: bool
    """basicConstraints say that it may sign certificates."""
    extensions: Mapping[bytes, bytes] = field(repr=False)
    """Content by object identifier, without those this class knows."""

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """A certificate from exactly its DER bytes.

        :raise DecodeError: anything else; a critical extension this version does not know.
        """
        if len(data) > MAX_SIZE:
            raise malformed(f"{len(data)} bytes")
        outer = Reader(der.only(data, der.SEQUENCE).content)
        signed = outer.take(der.SEQUENCE)
        algorithm = outer.take(der.SEQUENCE)
        signature = _bits(outer.take(der.BIT_STRING))
        outer.finish()
        reader = Reader(signed.content)
        if der.small_integer(reader.take(_VERSION).content, 2) != 2:
            raise malformed("it is not of version 3")
        reader.take(der.INTEGER)  # the serial number: 0 in all of a chip's certificates
        if reader.take(der.SEQUENCE).whole != algorithm.whole or not _is_pss(algorithm):
            raise malformed("it is not signed with RSASSA-PSS")
        issuer = reader.take(der.SEQUENCE)
        not_before, not_after = _validity(reader.take(der.SEQUENCE))
        subject = reader.take(der.SEQUENCE)
        public_key = _public_key(reader.take(der.SEQUENCE))
        for tag in (_ISSUER_ID, _SUBJECT_ID):
            if reader.peek() == tag:
                reader.take(tag)
        extensions = _extensions(reader)
        reader.finish()
        return cls(
            encoded=bytes(data),
            signed=signed.whole,
            signature=signature,
            issuer=issuer.whole,
            subject=subject.whole,
            common_name=_common_name(subject),
            not_before=not_before,
            not_after=not_after,
            public_key=public_key,
            is_authority=_is_authority(extensions.pop(_BASIC_CONSTRAINTS, None)),
            extensions=MappingProxyType(extensions),
        )

    @property
    def sha256(self) -> str:
        """Lower-case hex SHA-256 of the DER bytes: how a root is pinned."""
        return hashlib.sha256(self.encoded).hexdigest()

    def verify_signed_by(self, issuer: X509, *, now: datetime) -> None:
        """Check signature, names, the issuer's right to sign, and that this certificate is valid ``now``.

        :raise VerificationError: one of them does not hold.
        """
        key = issuer.public_key
        if not issuer.is_authority or not isinstance(key, rsa.RSAPublicKey) or key.key_size != _CA_KEY_BITS:
            raise VerificationError(f"{issuer.common_name} is no certificate authority", code="snp.authority")
        if self.issuer != issuer.subject:
            raise VerificationError(
                f"{self.common_name} names another issuer than {issuer.common_name}", code="snp.issuer"
            )
        scheme = padding.PSS(mgf=padding.MGF1(SHA384()), salt_length=SHA384.digest_size)
        try:
            key.verify(self.signature, self.signed, scheme, SHA384())
        except InvalidSignature:
            raise VerificationError(
                f"{issuer.common_name} does not sign {self.common_name}", code="snp.signature"
            ) from None
        if not self.not_before <= now <= self.not_after:
            raise VerificationError(
                f"{self.common_name} is valid from {self.not_before:%Y-%m-%d} to {self.not_after:%Y-%m-%d}",
                code="snp.expired",
                remedy="check the clock, and fetch the certificate again",
            )


def decode_x509(data: bytes) -> tuple[X509, ...]:
    """The certificates of a file: one or more in PEM, or one in DER.

    :raise DecodeError: anything else.
    """
    if len(data) > MAX_FILE_SIZE:
        raise malformed(f"a file of {len(data)} bytes")
    if not data.lstrip().startswith(b"-----BEGIN"):
        return (X509.decode(data),)
    text, found = data.strip() + b"\n", []
    offset = 0
    while offset < len(text):
        block = _PEM.match(text, offset)
        if block is None:
            raise malformed("a PEM block is malformed")
        try:
            found.append(X509.decode(base64.b64decode(b"".join(block[1].split()), validate=True)))
        except binascii.Error:
            raise malformed("a PEM block is not base64") from None
        offset = block.end()
    return tuple(found)


def _bits(element: Element) -> bytes:
    if element.content[:1] != b"\0":
        raise malformed("a bit string is not of whole bytes")
    return element.content[1:]


def _is_pss(algorithm: Element) -> bool:
    return Reader(algorithm.content).take(der.OID).content == _PSS


def _validity(element: Element) -> tuple[datetime, datetime]:
    reader = Reader(element.content)
    first, last = (_time(reader.take(*_TIME_DIGITS)) for _ in range(2))
    reader.finish()
    return first, last


def _time(element: Element) -> datetime:
    text = element.content.decode("ascii", "replace")
    digits = text[:-1]
    if len(digits) != _TIME_DIGITS[element.tag] or not digits.isdecimal() or text[-1] != "Z":
        raise malformed("a time is not in UTC to the second")
    if element.tag == der.UTC_TIME:  # two digits of the year, 1950 to 2049 (RFC 5280, 4.1.2.5.1)
        digits = ("20" if digits < "5" else "19") + digits
    try:
        return datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        raise malformed("a time that cannot be") from None


def _public_key(element: Element) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    try:
        key = load_der_public_key(element.whole)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise malformed("its key cannot be read") from None
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise malformed("its key is neither RSA nor elliptic curve")
    return key


def _common_name(name: Element) -> str:
    found = []
    for group in der.elements(name.content, der.SET):
        for attribute in der.elements(group.content, der.SEQUENCE):
            reader = Reader(attribute.content)
            if reader.take(der.OID).content == _COMMON_NAME:
                found.append(reader.take(*_STRINGS).content)
    if len(found) != 1:
        raise malformed("its subject has no common name, or several")
    try:
        return found[0].decode("ascii")
    except UnicodeDecodeError:
        raise malformed("its common name is not ASCII") from None


def _extensions(reader: Reader) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    if reader.at_end:
        return found
    sequence = der.only(reader.take(_EXTENSIONS).content, der.SEQUENCE)
    for element in der.elements(sequence.content, der.SEQUENCE):
        part = Reader(element.content)
        name = part.take(der.OID).content
        critical = part.peek() == der.BOOLEAN and part.take(der.BOOLEAN).content != b"\0"
        value = part.take(der.OCTET_STRING).content
        part.finish()
        if name in found:
            raise malformed("an extension stands twice")
        if critical and name not in (_BASIC_CONSTRAINTS, _KEY_USAGE):
            raise malformed("a critical extension is unknown")
        found[name] = value
    return found


def _is_authority(constraints: bytes | None) -> bool:
    if constraints is None:
        return False
    reader = Reader(der.only(constraints, der.SEQUENCE).content)
    return reader.peek() == der.BOOLEAN and reader.take(der.BOOLEAN).content == b"\xff"
