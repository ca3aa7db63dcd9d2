# SPDX-License-Identifier: Apache-2.0
"""Encrypt every layer of an image for the guests that a key broker gives the key to.

1. Resolve the source (of an index: one platform) and refuse what is encrypted already.
2. Per layer: a fresh 256-bit key and 128-bit nonce; the verified plain blob streams through the cipher into
   the sink. Docker types become OCI types, because only OCI descriptors keep annotations.
3. Wrap the layer's private options under the image key; write packet and public options as annotations.
4. Store the configuration (unchanged: it is never encrypted) and build an OCI manifest.
5. Read every stored layer back: it must decrypt with the image key to the digest of the plain blob. Only
   then is the manifest filed under its tag, and read back too.

The result is new at every run: keys and nonces are random, so that blob and manifest digests differ.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from sealpod.errors import ConflictError, OperationError, UsageError, VerificationError
from sealpod.image.layer import open_compressed, unlock
from sealpod.image.ports import ByteStream, ImageSink, ImageSource, Progress, RawManifest
from sealpod.image.pull import ResolvedImage, resolve
from sealpod.image.transfer import put_bytes
from sealpod.image.verify import ReportingReader, VerifyingReader, drain
from sealpod.oci import mediatypes
from sealpod.oci.descriptor import Descriptor, Platform
from sealpod.oci.digest import Digest
from sealpod.oci.manifest import Manifest
from sealpod.ocicrypt import annotations as enc
from sealpod.ocicrypt import keywrap
from sealpod.ocicrypt.cipher import KEY_SIZE, NONCE_SIZE, Encryptor
from sealpod.ocicrypt.options import NONCE, PrivateOptions, PublicOptions
from sealpod.ocicrypt.packet import AES_256_CTR, AnnotationPacket
from sealpod.secret import SecretBytes

Rng = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Recipient:
    """Under which key, filed in the broker under which id, the layer keys are wrapped, and how."""

    key: SecretBytes
    key_id: str
    algorithm: str = AES_256_CTR


@dataclass(frozen=True, slots=True)
class EncryptedImage:
    """The image as it stands in the sink."""

    manifest_digest: Digest
    manifest: Manifest


def encrypt(
    source: ImageSource,
    selector: str,
    sink: ImageSink,
    target: str,
    recipient: Recipient,
    *,
    rng: Rng,
    platform: Platform | None = None,
    progress: Progress | None = None,
) -> EncryptedImage:
    """Encrypt the image at ``selector`` and file it in ``sink`` under ``target``.

    UsageError for a key that is not 32 bytes, ConflictError (``image.already-encrypted``), the errors of
    :func:`sealpod.image.pull.resolve`, VerificationError if a stored layer does not read back.
    """
    _check_recipient(recipient)
    # (1)
    image = resolve(source, selector, platform or Platform())
    _refuse_encrypted(image.manifest)
    # (2) and (3)
    job = _Job(source, sink, recipient, rng, progress, len(image.manifest.layers))
    layers = tuple(job.encrypt_layer(number, layer) for number, layer in enumerate(image.manifest.layers, 1))
    # (4)
    manifest = _store_config(source, sink, image, layers)
    # (5)
    for number, (plain, layer) in enumerate(zip(image.manifest.layers, layers, strict=True), 1):
        job.verify_layer(number, plain, layer)
    raw = RawManifest(manifest.media_type, manifest.encode())
    sink.put_manifest(target, raw)
    if sink.reader().manifest(str(raw.digest)).body != raw.body:
        raise VerificationError("the stored manifest is not the one written", code="image.manifest-digest")
    return EncryptedImage(raw.digest, manifest)


class _Job:
    def __init__(
        self,
        source: ImageSource,
        sink: ImageSink,
        recipient: Recipient,
        rng: Rng,
        progress: Progress | None,
        count: int,
    ) -> None:
        self._source = source
        self._sink = sink
        self._recipient = recipient
        self._rng = rng
        self._progress = progress
        self._count = count

    def encrypt_layer(self, number: int, layer: Descriptor) -> Descriptor:
        media_type = mediatypes.to_oci(layer.media_type) + mediatypes.ENCRYPTED
        mediatypes.compression(media_type)  # refuses what is no layer before anything is written
        nonce = self._rng(NONCE_SIZE)
        private = PrivateOptions(SecretBytes(self._rng(KEY_SIZE)), str(layer.digest), {NONCE: nonce})
        cipher = Encryptor(private.symkey, nonce)
        with closing(self._source.blob(layer)) as stream:
            verified = VerifyingReader(stream, layer.digest, layer.size, check="blob")
            counted = ReportingReader(
                verified, f"encrypting layer {number} of {self._count}", layer.size, self._progress
            )
            digest, size = self._sink.put_blob(_EncryptingReader(counted, cipher))
        if size != layer.size:
            raise OperationError(f"{size} bytes were stored instead of {layer.size}", code="image.store")
        annotations = {**layer.annotations, **self._annotations(private, cipher.finish())}
        return layer.replace(media_type=media_type, digest=digest, annotations=annotations)

    def verify_layer(self, number: int, plain: Descriptor, stored: Descriptor) -> None:
        key = unlock(stored, self._unwrap)
        if key is None or key.private.digest != str(plain.digest):
            raise VerificationError(f"layer {number} was not stored encrypted", code="image.not-encrypted")
        with closing(open_compressed(self._sink.reader(), stored, key)) as stream:
            what = f"verifying layer {number} of {self._count}"
            drain(ReportingReader(stream, what, stored.size, self._progress))

    def _annotations(self, private: PrivateOptions, mac: bytes) -> dict[str, str]:
        recipient = self._recipient
        packet = keywrap.wrap(recipient.key, private, recipient.key_id, recipient.algorithm, rng=self._rng)
        return enc.encryption([packet.encode()], PublicOptions(mac).encode())

    def _unwrap(self, packet: AnnotationPacket) -> SecretBytes:
        return keywrap.unwrap(self._recipient.key, packet)


class _EncryptingReader:
    """The ciphertext of a stream."""

    def __init__(self, stream: ByteStream, cipher: Encryptor) -> None:
        self._stream = stream
        self._cipher = cipher

    def read(self, size: int, /) -> bytes:
        return self._cipher.update(self._stream.read(size))

    def close(self) -> None:
        self._stream.close()


def _check_recipient(recipient: Recipient) -> None:
    if len(recipient.key) != keywrap.KEK_SIZE:
        raise UsageError(
            f"the key has {len(recipient.key)} bytes; need {keywrap.KEK_SIZE}",
            code="image.key-size",
            remedy="use 32 raw bytes, for example: head -c 32 /dev/urandom > key",
        )
    # Reading it back as the guest will shows an id that no guest could use, before anything is written.
    AnnotationPacket.decode(AnnotationPacket(recipient.key_id, b"", b"", recipient.algorithm).encode()).key_id  # noqa: B018


def _refuse_encrypted(manifest: Manifest) -> None:
    for number, layer in enumerate(manifest.layers, 1):
        if mediatypes.is_encrypted(layer.media_type) or enc.has_keys(layer.annotations):
            raise ConflictError(
                f"layer {number} of the source is encrypted already",
                code="image.already-encrypted",
                remedy="encrypt the original image instead",
            )


def _store_config(
    source: ImageSource, sink: ImageSink, image: ResolvedImage, layers: tuple[Descriptor, ...]
) -> Manifest:
    old = image.manifest
    config = old.config.replace(media_type=mediatypes.to_oci(old.config.media_type))
    if not sink.has_blob(config):
        put_bytes(sink, image.raw_config)
    return old.replace(media_type=mediatypes.OCI_MANIFEST, config=config, layers=layers)
