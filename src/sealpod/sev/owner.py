# SPDX-License-Identifier: Apache-2.0
"""A platform owner's certificate authority: the OCA, its key's file, and signing a platform's PEK.

An owner takes a platform by signing its PEK: the platform gives out the PEK's certificate without signatures
(PEK_CSR), the owner signs it, and the platform takes it back with the OCA's certificate (PEK_CERT_IMPORT).
The key's file is DER of ECPrivateKey (RFC 5915), as sevctl writes it; PKCS #8 and PEM are read too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)

from sealpod.errors import DecodeError, VerificationError
from sealpod.secret import SecretBytes
from sealpod.sev.cert import SIZE, Certificate, Signature, make, sign
from sealpod.sev.signature import Algorithm, Usage

MAX_KEY_SIZE: Final = 1 << 13
"""Bytes of a key's file; a P-384 key in PEM has 360."""
_PEM: Final = b"-----BEGIN "


@dataclass(frozen=True, slots=True, repr=False)
class Owner:
    """An OCA and its private key."""

    oca: Certificate
    key: ec.EllipticCurvePrivateKey

    def sign_pek(self, csr: Certificate) -> Certificate:
        """A platform's PEK, signed in its first empty slot.

        :raise DecodeError: not a PEK, or no slot is empty.
        """
        if csr.usage != Usage.PEK:
            raise DecodeError(f"a {csr.usage.name} in place of a PEK to be signed", code="owner.csr")
        slot = next((slot for slot, found in enumerate(csr.signatures) if found == Signature()), None)
        if slot is None:
            raise DecodeError("the PEK to be signed has no empty signature slot", code="owner.csr")
        return sign(csr, self.key, Usage.OCA, self.oca.algorithm, slot)


def make_owner(key: ec.EllipticCurvePrivateKey) -> Owner:
    """The owner of this key (P-384): a self-signed OCA certificate, of no firmware version."""
    unsigned = make(key.public_key(), Usage.OCA, Algorithm.ECDSA_SHA256)
    return Owner(sign(unsigned, key, Usage.OCA, Algorithm.ECDSA_SHA256, 0), key)


def encode_key(key: ec.EllipticCurvePrivateKey) -> SecretBytes:
    """The key's file."""
    return SecretBytes(key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()))


def decode_oca(data: bytes) -> Certificate:
    """An OCA's certificate from its file; what follows it is not looked at.

    :raise DecodeError: not an OCA. :raise VerificationError: not self-signed, or not a signing key.
    """
    oca = Certificate.decode(data[:SIZE])
    if oca.usage != Usage.OCA:
        raise DecodeError(f"a {oca.usage.name} in place of an OCA", code="owner.oca")
    if not oca.algorithm.signs:
        raise VerificationError("the OCA is not a signing key", code="owner.oca")
    oca.verify_signed_by(oca.verifying_key(), Usage.OCA, oca.algorithm)
    return oca


def decode_owner(oca: Certificate, key_file: SecretBytes) -> Owner:
    """The owner whose certificate and key's file these are.

    :raise DecodeError: no unencrypted elliptic curve key.
    :raise VerificationError: the key of another certificate.
    """
    key = _load(key_file.reveal())
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise DecodeError("no elliptic curve key", code="owner.key")
    if key.public_key().public_numbers() != oca.public_key().public_numbers():
        raise VerificationError("it is not the key of the OCA's certificate", code="owner.key-other")
    return Owner(oca, key)


def _load(data: bytes) -> object:
    if len(data) > MAX_KEY_SIZE:
        raise DecodeError(f"{len(data)} bytes are no key", code="owner.key")
    load = load_pem_private_key if data.lstrip().startswith(_PEM) else load_der_private_key
    try:
        return load(data, password=None)
    # The library's text is left out: it may quote what it read.
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise DecodeError("no unencrypted private key in DER or PEM", code="owner.key") from None
