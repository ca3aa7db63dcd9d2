# SPDX-License-Identifier: Apache-2.0
"""Wrapping a layer's private options under a 256-bit key, as the attestation agent's key providers do.

``aes_256_ctr`` / ``A256CTR``: AES-256-CTR with a 16-byte IV and no authentication. A wrong key gives noise,
so that nothing but the shape of the result can tell; :func:`unwrap` looks at it and says so.
``A256GCM`` / ``aes-gcm``: AES-256-GCM with a 12-byte IV, no associated data, tag appended.

Who may change an unauthenticated packet and learns whether the result has the right shape can ask for the
layer's key one character after the other, and a packet of GCM can be had opened as one of CTR. So a wrong
shape is told only by the bytes before the key, which everybody knows; behind them a changed packet opens to
another key, as one without any shape to look at would, and the layer's HMAC speaks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sealpod.errors import DecodeError, UsageError, VerificationError
from sealpod.ocicrypt import options
from sealpod.ocicrypt.cipher import NONCE_SIZE
from sealpod.ocicrypt.options import PrivateOptions
from sealpod.ocicrypt.packet import A256CTR, A256GCM, AES_256_CTR, AES_GCM, AnnotationPacket
from sealpod.secret import SecretBytes

KEK_SIZE: Final = 32  # bytes
TAG_SIZE: Final = 16  # bytes, GCM
IV_SIZES: Final = {AES_256_CTR: 16, A256CTR: 16, A256GCM: 12, AES_GCM: 12}  # bytes
WRITTEN: Final = (AES_256_CTR, A256GCM, A256CTR)
WRONG_KEY: Final = "image.wrong-key"


def wrap(
    kek: SecretBytes,
    private: PrivateOptions,
    kid: str,
    algorithm: str = AES_256_CTR,
    *,
    rng: Callable[[int], bytes],
) -> AnnotationPacket:
    """``private`` under ``kek`` (32 bytes), to be found again by ``kid``; ``rng`` gives the IV."""
    if algorithm not in WRITTEN:
        raise UsageError(
            f"unknown wrap algorithm {algorithm!r}", remedy=f"choose one of {', '.join(WRITTEN)}"
        )
    _check_kek(kek, kid)
    iv = rng(IV_SIZES[algorithm])
    plaintext = private.encode().reveal()
    sealed = _gcm_seal(kek, iv, plaintext) if algorithm == A256GCM else _ctr(kek, iv, plaintext)
    return AnnotationPacket(kid, sealed, iv, algorithm)


def unwrap(kek: SecretBytes, packet: AnnotationPacket) -> SecretBytes:
    """The private options JSON in ``packet``.

    VerificationError (``image.wrong-key``) if ``kek`` does not fit; DecodeError if the packet is malformed.
    An unauthenticated packet that was changed gives options that open no layer.
    """
    size = IV_SIZES.get(packet.wrap_type)
    if size is None:
        raise DecodeError(f"unknown wrap type {packet.wrap_type[:60]!r}", code="image.wrap-type")
    if len(packet.iv) != size:
        raise DecodeError(f"the key packet's IV has {len(packet.iv)} bytes; {packet.wrap_type} needs {size}")
    _check_kek(kek, packet.kid)
    if packet.wrap_type in (A256GCM, AES_GCM):
        return SecretBytes(_gcm_open(kek, packet))
    plaintext = _ctr(kek, packet.iv, packet.wrapped_data)
    if not plaintext.startswith(options.START):
        raise wrong_key(packet.kid)
    return SecretBytes(plaintext) if options.is_as_written(plaintext) else _another_key(kek, packet)


def wrong_key(kid: str) -> VerificationError:
    """The error for a key that does not open the packet filed under ``kid``."""
    return VerificationError(
        f"the key filed under {kid!r} is wrong: it does not decrypt the layer's key packet",
        code=WRONG_KEY,
        remedy="give the key broker the key the image was encrypted with, under this key id",
    )


def _another_key(kek: SecretBytes, packet: AnnotationPacket) -> SecretBytes:
    """Options with a key that is nobody's, the same for the same packet."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.hmac import HMAC

    mac = HMAC(kek.reveal(), SHA256())
    mac.update(packet.iv + packet.wrapped_data)
    key, digest = SecretBytes(mac.finalize()), f"sha256:{'0' * 64}"
    return PrivateOptions(key, digest, {options.NONCE: bytes(NONCE_SIZE)}).encode()


def _check_kek(kek: SecretBytes, kid: str) -> None:
    if len(kek) != KEK_SIZE:
        raise UsageError(
            f"the key filed under {kid!r} has {len(kek)} bytes; need {KEK_SIZE}",
            code="image.key-size",
            remedy="use 32 raw bytes, for example: head -c 32 /dev/urandom > key",
        )


def _ctr(kek: SecretBytes, iv: bytes, data: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.ciphers.modes import CTR

    return Cipher(AES(kek.reveal()), CTR(iv)).encryptor().update(data)


def _gcm_seal(kek: SecretBytes, iv: bytes, plaintext: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(kek.reveal()).encrypt(iv, plaintext, None)


def _gcm_open(kek: SecretBytes, packet: AnnotationPacket) -> bytes:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if len(packet.wrapped_data) < TAG_SIZE:
        raise DecodeError(f"the key packet has {len(packet.wrapped_data)} bytes, fewer than its tag")
    try:
        return AESGCM(kek.reveal()).decrypt(packet.iv, packet.wrapped_data, None)
    except InvalidTag as error:
        raise wrong_key(packet.kid) from error
