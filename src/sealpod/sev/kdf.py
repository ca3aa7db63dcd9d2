# SPDX-License-Identifier: Apache-2.0
"""Key derivation of SEV: NIST SP 800-108 in counter mode with HMAC-SHA256 (SEV API, key derivation).

Unlike the usual reading of the standard, counter and length are little-endian.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

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
