# SPDX-License-Identifier: Apache-2.0
"""Sealing under one AES-256-GCM key: nonce (12) ‖ ciphertext ‖ tag (16), the context as associated data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealpod.errors import VerificationError
from sealpod.secret import SecretBytes

KEY_SIZE: Final = 32
"""Bytes; AES-256."""
NONCE_SIZE: Final = 12
"""Bytes; NIST SP 800-38D's recommended length."""
TAG_SIZE: Final = 16


class AesGcmSealer:
    """A :class:`~sealpod.kbs.core.ports.Sealer` with one key.

    The broker makes a random key when it starts and keeps it in memory only: a restart forgets launches in
    progress, and a stolen database opens none of them.
    """

    __slots__ = ("_aead", "_rng")

    def __init__(self, key: SecretBytes, *, rng: Callable[[int], bytes]) -> None:
        self._aead = AESGCM(key.reveal())
        self._rng = rng

    def seal(self, plaintext: SecretBytes, *, context: bytes) -> bytes:
        nonce = self._rng(NONCE_SIZE)
        return nonce + self._aead.encrypt(nonce, plaintext.reveal(), context)

    def open(self, sealed: bytes, *, context: bytes) -> SecretBytes:
        if len(sealed) < NONCE_SIZE + TAG_SIZE:
            raise VerificationError("sealed record is too short", code="seal.broken")
        try:
            return SecretBytes(self._aead.decrypt(sealed[:NONCE_SIZE], sealed[NONCE_SIZE:], context))
        except InvalidTag:
            raise VerificationError("sealed record does not open", code="seal.broken") from None
