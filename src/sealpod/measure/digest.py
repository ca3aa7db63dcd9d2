# SPDX-License-Identifier: Apache-2.0
"""The launch digest of SEV: SHA-256 over what the firmware was asked to encrypt, in that order.

For a guest without register encryption these are the firmware image and, when the kernel is measured, the
hashes table. Addresses and lengths are not part of it (SEV API, LAUNCH_UPDATE_DATA).
"""

from __future__ import annotations

import hashlib


def sev_digest(firmware: bytes | bytearray | memoryview, table: bytes | None) -> bytes:
    """32 bytes; ``table`` is the 176-byte hashes table, None when no kernel is measured."""
    return sev_digests(firmware, table)[1]


def sev_digests(firmware: bytes | bytearray | memoryview, table: bytes | None) -> tuple[bytes, bytes]:
    """The firmware's own SHA-256 and the launch digest, in one pass over the firmware."""
    running = hashlib.sha256(firmware)
    alone = running.digest()
    running.update(table or b"")
    return alone, running.digest()
