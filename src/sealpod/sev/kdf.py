# SPDX-License-Identifier: Apache-2.0
"""The symmetric primitives of SEV: key derivation, MAC and cipher (SEV API, key derivation).

Derivation is NIST SP 800-108 in counter mode with HMAC-SHA256; unlike the usual reading of the standard,
counter and length are little-endian.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

_BLOCK: Final = hashlib.sha256().digest_size

MASTER_LABEL: Final = b"sev-master-secret"
KEK_LABEL: Final = b"sev-kek"
KIK_LABEL: Final = b"sev-kik"
CEK_LABEL: Final = b"sev-chip-endorsement-key"


def kdf(key: bytes, size: int, label: bytes, context: bytes = b"") -> bytes:
    """``size`` bytes of key material: HMAC(key, LE32(i) | label | 00 | context | LE32(bits)) for i = 1..."""
    tail = label + b"\0" + context + (8 * size).to_bytes(4, "little")
    blocks = (
        hmac.digest(key, index.to_bytes(4, "little") + tail, "sha256")
        for index in range(1, -(-size // _BLOCK) + 1)
    )
    return b"".join(blocks)[:size]


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA256, the only MAC SEV knows. 32 bytes."""
    return hmac.digest(key, message, "sha256")


def aes_ctr(key: bytes, iv: bytes, data: bytes) -> bytes:
    """AES-128-CTR, which encrypts and decrypts alike; ``iv`` is the whole first counter block, big-endian."""
    encryptor = Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor()
    return encryptor.update(data) + encryptor.finalize()
