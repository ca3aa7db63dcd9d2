# SPDX-License-Identifier: Apache-2.0
"""Certificates in one line, as sevctl prints them: ``PDH EP384 D256 dbec0cf3...``.

``USAGE KEY HASH hex``. KEY is ``EP256``, ``EP384``, ``R2048`` or ``R4096``. HASH is what the certificate's
own key hashes with: ``E256`` signing, ``D256`` agreeing, ``R384`` RSA. ``hex`` is that hash of the signed
part, so that one certificate shows the same with and without its signatures.
"""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

from sealpod.errors import DecodeError
from sealpod.sev.ca import CaCertificate
from sealpod.sev.cert import Certificate
from sealpod.sev.signature import Algorithm

UNKNOWN_KEY: Final = "?"
"""In place of KEY when the key field holds none."""


def describe(certificate: Certificate | CaCertificate) -> str:
    """The line. A certificate whose key field is broken has ``?`` for its key; nothing is raised."""
    algorithm = certificate.algorithm
    parts = (certificate.usage.name, _key(certificate), _hash_name(algorithm), body_hash(certificate))
    return " ".join(parts)


def body_hash(certificate: Certificate | CaCertificate) -> str:
    """Lower-case hex of the hash of the signed part, by the certificate's own algorithm."""
    bits = certificate.algorithm.hash_bits or 256
    return hashlib.new(f"sha{bits}", certificate.body).hexdigest()


def _key(certificate: Certificate | CaCertificate) -> str:
    if isinstance(certificate, CaCertificate):
        return f"R{8 * len(certificate.modulus)}"
    try:
        key = certificate.verifying_key()
    except DecodeError:
        return UNKNOWN_KEY
    return f"R{key.key_size}" if isinstance(key, rsa.RSAPublicKey) else f"EP{key.curve.key_size}"


def _hash_name(algorithm: Algorithm) -> str:
    if algorithm is Algorithm.NONE:
        return UNKNOWN_KEY
    letter = "R" if algorithm.is_rsa else "E" if algorithm.signs else "D"
    return f"{letter}{algorithm.hash_bits}"
