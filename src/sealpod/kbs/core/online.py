# SPDX-License-Identifier: Apache-2.0
"""The online reply: secrets of a running guest under its connection key (simple-kbs' ``payload_simple``).

Plaintext, as Rust's bincode 1 writes a map from text to bytes, all numbers little-endian::

    8   number of entries
    then per entry
    8   length of the GUID text     n   GUID text as the caller sent it
    8   length of the payload       n   payload

AES-256-GCM, 12-byte nonce, no associated data, tag appended. The guest knows its reply by finding the
fresh GUID it sent.

One more entry binds the reply to its request (:mod:`sealpod.wire.binding`); simple-kbs' clients do not look
at it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealpod.secret import SecretBytes
from sealpod.wire.binding import BINDING_VERSION

IV_SIZE: Final = 12
"""Bytes of the nonce."""
CONNECTION_KEY_SIZE: Final = 32
"""Bytes of a connection's key; AES-256."""

_LENGTH = struct.Struct("<Q")


def connection_id(random: bytes) -> UUID:
    """A fresh client id, from 16 random bytes of which 122 bits stay. Its version announces the binding."""
    value = int.from_bytes(random, "big")
    value = value & ~(0xF << 76) | BINDING_VERSION << 76
    return UUID(int=value & ~(0x3 << 62) | 0x2 << 62)


def encode_map(entries: Sequence[tuple[str, bytes]]) -> bytes:
    """The plaintext of a reply with these entries in this order."""
    parts = [_LENGTH.pack(len(entries))]
    for guid, payload in entries:
        parts += (_sized(guid.encode()), _sized(payload))
    return b"".join(parts)


def encrypt_reply(key: SecretBytes, entries: Sequence[tuple[str, SecretBytes]], *, iv: bytes) -> bytes:
    """Ciphertext and tag. ``iv`` must never be used twice with one key."""
    plaintext = encode_map([(guid, payload.reveal()) for guid, payload in entries])
    return AESGCM(key.reveal()).encrypt(iv, plaintext, None)


def _sized(value: bytes) -> bytes:
    return _LENGTH.pack(len(value)) + value
