# SPDX-License-Identifier: Apache-2.0
"""Sealing at rest: every value under a key of its own, which is wrapped under a key-encryption key (KEK).

A sealed value is text, so that it fits simple-kbs' columns, and says which KEK opens it::

    sealpod:1:<KEK id>:<base64 of  nonce (12) | wrapped key (32) | tag (16) | ciphertext (n) | tag (16)>

Both layers are AES-256-GCM. The wrapped key's associated data is the KEK's id; the value's is the context,
which names the record it belongs to: a sealed value copied into another record does not open. A value's
key seals that value alone, so its nonce is zero. Wrapping under another KEK changes neither the value nor
its ciphertext, and needs no context.

The id is not secret: 4 bytes of an HMAC under the KEK, so that every process calls a KEK the same.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealpod.errors import DecodeError, UsageError, VerificationError
from sealpod.kbs.core.encoding import decode_base64, encode_base64
from sealpod.secret import SecretBytes

KEY_SIZE: Final = 32
"""Bytes; AES-256."""
NONCE_SIZE: Final = 12
"""Bytes; NIST SP 800-38D's recommended length."""
TAG_SIZE: Final = 16
MARK: Final = "sealpod:"
"""Begins every sealed value of any version; no base64 text begins so."""
PREFIX: Final = f"{MARK}1:"
ID_DIGITS: Final = 8
WRAPPED: Final = NONCE_SIZE + KEY_SIZE + TAG_SIZE
OVERHEAD: Final = WRAPPED + TAG_SIZE
"""Bytes a sealed value has more than the value, before base64."""

_SEALED: Final = re.compile(r"sealpod:1:(?P<id>[0-9a-f]{8}):(?P<payload>[A-Za-z0-9+/=]+)")
_ID_LABEL: Final = b"sealpod KEK id 1"
_WRAP_LABEL: Final = b"sealpod KEK wrap 1 "
_ZERO_NONCE: Final = bytes(NONCE_SIZE)
_MAX_PAYLOAD: Final = 1 << 21


def kek_id(key: SecretBytes) -> str:
    """What a KEK is called: 8 hex digits."""
    return hmac.new(key.reveal(), _ID_LABEL, hashlib.sha256).hexdigest()[:ID_DIGITS]


def is_sealed(text: str) -> bool:
    """Whether a column's text is a sealed value, of this version or another."""
    return text.startswith(MARK)


def sealed_under(text: str) -> str | None:
    """The id of the KEK a sealed value names; None for what is no sealed value of this version."""
    match = _SEALED.fullmatch(text)
    return None if match is None else match["id"]


def sealed_length(size: int) -> int:
    """Characters of the sealed form of ``size`` bytes."""
    return len(PREFIX) + ID_DIGITS + 1 + (size + OVERHEAD + 2) // 3 * 4


class KeyRing:
    """A :class:`~sealpod.kbs.core.ports.Sealer`: seals under one KEK, opens under several.

    ``rng(n)`` gives n random bytes fit for keys.

    :raise UsageError: a KEK that is not 32 bytes, or two of one id.
    """

    __slots__ = ("_keks", "_rng", "active")

    def __init__(
        self, active: SecretBytes, older: Iterable[SecretBytes] = (), *, rng: Callable[[int], bytes]
    ) -> None:
        self._rng = rng
        self._keks: dict[str, AESGCM] = {}
        known: dict[str, SecretBytes] = {}
        for key in (active, *older):
            if len(key) != KEY_SIZE:
                raise UsageError(f"a key-encryption key has {KEY_SIZE} bytes", code="kek.size")
            name = kek_id(key)
            if known.setdefault(name, key) != key:
                raise UsageError(f"two key-encryption keys are called {name}", code="kek.collision")
            self._keks.setdefault(name, AESGCM(key.reveal()))
        self.active: Final = kek_id(active)

    @property
    def ids(self) -> frozenset[str]:
        """The KEKs it can open under."""
        return frozenset(self._keks)

    def seal(self, plaintext: SecretBytes, *, context: bytes) -> bytes:
        key = SecretBytes(self._rng(KEY_SIZE))
        value = AESGCM(key.reveal()).encrypt(_ZERO_NONCE, plaintext.reveal(), context)
        return self._encode(self._wrap(key) + value)

    def open(self, sealed: bytes, *, context: bytes) -> SecretBytes:
        key, value = self._unwrap(sealed)
        try:
            return SecretBytes(AESGCM(key.reveal()).decrypt(_ZERO_NONCE, value, context))
        except InvalidTag:
            raise _broken() from None

    def rewrap(self, sealed: bytes) -> bytes:
        """The same value with its key wrapped under the active KEK. :raise VerificationError: as open."""
        key, value = self._unwrap(sealed)
        return self._encode(self._wrap(key) + value)

    def _wrap(self, key: SecretBytes) -> bytes:
        nonce = self._rng(NONCE_SIZE)
        return nonce + self._keks[self.active].encrypt(nonce, key.reveal(), _wrap_data(self.active))

    def _unwrap(self, sealed: bytes) -> tuple[SecretBytes, bytes]:
        name, payload = _decode(sealed)
        kek = self._keks.get(name)
        if kek is None:
            raise VerificationError(
                f"a record is sealed under key-encryption key {name}, which is not loaded",
                code="seal.key-missing",
                remedy="add that key to the key broker's, see `sealpod kbs doctor`",
            )
        try:
            key = kek.decrypt(payload[:NONCE_SIZE], payload[NONCE_SIZE:WRAPPED], _wrap_data(name))
        except InvalidTag:
            raise _broken() from None
        return SecretBytes(key), payload[WRAPPED:]

    def _encode(self, payload: bytes) -> bytes:
        return f"{PREFIX}{self.active}:{encode_base64(payload)}".encode("ascii")


def _wrap_data(name: str) -> bytes:
    return _WRAP_LABEL + name.encode("ascii")


def _decode(sealed: bytes) -> tuple[str, bytes]:
    match = _SEALED.fullmatch(sealed.decode("ascii", "replace"))
    if match is None:
        raise _broken()
    try:
        payload = decode_base64(match["payload"], limit=_MAX_PAYLOAD)
    except DecodeError:
        raise _broken() from None
    if len(payload) < OVERHEAD:
        raise _broken()
    return match["id"], payload


def _broken() -> VerificationError:
    return VerificationError("a sealed record does not open", code="seal.broken")
