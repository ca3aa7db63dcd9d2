# SPDX-License-Identifier: Apache-2.0
"""The layer cipher ``AES_256_CTR_HMAC_SHA256``, streaming, with the verdict at the end.

========== =======================================================================================
key        32 bytes, one per layer; the same key encrypts and authenticates (the format's choice)
nonce      16 bytes, the whole initial counter block, counted big-endian with wrap
ciphertext AES-256-CTR(plaintext), same length, nothing before or after it
MAC        HMAC-SHA256(key, ciphertext): not over nonce or length, kept in the public options
========== =======================================================================================

What :meth:`Decryptor.update` returns is unauthenticated: treat it as garbage until :meth:`Decryptor.finish`
has returned. The last ``WITHHELD`` bytes are not released before the verdict, so a reader that ignores the
exception still cannot hold a complete layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sealpod.errors import UsageError, VerificationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import CipherContext
    from cryptography.hazmat.primitives.hmac import HMAC

    from sealpod.secret import SecretBytes

KEY_SIZE: Final = 32  # bytes
NONCE_SIZE: Final = 16  # bytes, one AES block
MAC_SIZE: Final = 32  # bytes
WITHHELD: Final = 16 * 1024  # bytes; ocicrypt's reader holds back 10 KiB for the same reason


class Encryptor:
    """Encrypts one stream. ``update`` each chunk, then ``finish`` for the MAC."""

    def __init__(self, key: SecretBytes, nonce: bytes) -> None:
        self._ctr = _ctr(key, nonce)
        self._mac = _mac(key)

    def update(self, plaintext: bytes) -> bytes:
        """The ciphertext of the next chunk, same length."""
        ciphertext = self._ctr.update(plaintext)
        self._mac.update(ciphertext)
        return ciphertext

    def finish(self) -> bytes:
        """The MAC over everything returned so far (32 bytes)."""
        return self._mac.copy().finalize()


class Decryptor:
    """Decrypts one stream. ``update`` each chunk, then ``finish`` for the last bytes and the verdict."""

    def __init__(self, key: SecretBytes, nonce: bytes, mac: bytes) -> None:
        self._ctr = _ctr(key, nonce)
        self._mac = _mac(key)
        self._expected = mac
        self._held = b""

    def update(self, ciphertext: bytes) -> bytes:
        """Plaintext that may be released before the verdict; may be empty."""
        self._mac.update(ciphertext)
        pending = self._held + ciphertext
        if len(pending) <= WITHHELD:
            self._held = pending
            return b""
        self._held = pending[-WITHHELD:]
        return self._ctr.update(memoryview(pending)[:-WITHHELD])

    def finish(self) -> bytes:
        """The withheld plaintext; VerificationError (``image.hmac``) if the MAC differs."""
        from cryptography.hazmat.primitives.constant_time import bytes_eq

        if not bytes_eq(self._mac.copy().finalize(), self._expected):
            raise VerificationError(
                "the HMAC of the encrypted data does not match: the key is wrong, or the data or its"
                " annotations were changed after encryption",
                code="image.hmac",
                remedy="check which key the image was encrypted with; push the image again",
            )
        return self._ctr.update(self._held)


def _mac(key: SecretBytes) -> HMAC:
    # Not the standard library's: it would load a second copy of OpenSSL, dear in an emulated guest.
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.hmac import HMAC

    return HMAC(key.reveal(), SHA256())


def _ctr(key: SecretBytes, nonce: bytes) -> CipherContext:
    if len(key) != KEY_SIZE:
        raise UsageError(f"invalid key length of {len(key)} bytes; need {KEY_SIZE}")
    if len(nonce) != NONCE_SIZE:
        raise UsageError(f"invalid nonce length of {len(nonce)} bytes; need {NONCE_SIZE}")
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.ciphers.modes import CTR

    # CTR encrypts and decrypts alike.
    return Cipher(AES(key.reveal()), CTR(nonce)).encryptor()
