# SPDX-License-Identifier: Apache-2.0
"""Pull an image: fetch, verify, decrypt and unpack every layer, or leave nothing behind.

1. The manifest's body is hashed; a reference by digest must match it (``image.manifest-digest``).
2. Of an index, the platform's manifest is fetched by digest and hashed in its turn.
3. The configuration has the digest and size the manifest says (``image.config-*``), is for the platform
   (``image.platform``) and lists one diff_id per layer (``image.layer-count``).
4. Where encrypted images alone may run, every layer is encrypted (``image.plain-layer``): somebody else's on
   top could do with those below what it likes.
5. Every encrypted layer's key is unwrapped before a byte of any layer is fetched, so that a wrong key
   (``image.wrong-key``) costs nothing.
6. Each layer: blob size and digest, HMAC, digest before encryption, diff_id (``image.blob-*``,
   ``image.hmac``, ``image.layer-*``, ``image.diff-id``), unpacked while it streams into a temporary place.
7. When all verdicts have fallen, the directory gets its final name.

Nothing is taken from an earlier pull: configuration and diff_ids are the same for an encrypted image and its
plain twin, so that a cache keyed by them would hand out one for the other. What the caller must still do:
decide whether this reference may run at all. Encryption is no signature: who can write to the registry can
replace an image by another plain one.
"""

from __future__ import annotations

import os
from contextlib import closing

from sealpod.errors import DecodeError, RefusedError, SealpodError, UnavailableError, VerificationError
from sealpod.image.inflate import open_inflated
from sealpod.image.layer import LayerKey, explained, open_compressed, unlock
from sealpod.image.ports import ByteStream, ImageSource, KeyUnwrapper, Progress, RawManifest
from sealpod.image.store import make_temporary, publish, remove_tree
from sealpod.image.unpack import Limits, unpack
from sealpod.image.verify import ReportingReader, VerifyingReader, drain, read_all
from sealpod.oci import mediatypes
from sealpod.oci.config import MAX_CONFIG, ImageConfig
from sealpod.oci.descriptor import Descriptor, Platform
from sealpod.oci.digest import Digest
from sealpod.oci.manifest import MAX_MANIFEST, Index, Manifest, decode_document
from sealpod.oci.reference import ImageReference
from sealpod.record import Record


class PulledImage(Record):
    """An image in the store: ``layers`` are directories, bottom first, ready for an overlay mount."""

    reference: ImageReference
    manifest_digest: Digest
    config: ImageConfig
    layers: tuple[str, ...]
    directory: str = ""
    """Where the layers are. It is this pull's alone, and the caller's to remove."""


class ResolvedImage(Record):
    """Manifest and configuration, verified against each other and the reference."""

    manifest_digest: Digest
    raw: RawManifest
    manifest: Manifest
    config: ImageConfig
    raw_config: bytes


def pull(
    source: ImageSource,
    reference: ImageReference,
    unwrap: KeyUnwrapper | None,
    store: str,
    *,
    platform: Platform | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
    encrypted_only: bool = False,
) -> PulledImage:
    """Pull ``reference`` from ``source`` into a new directory below ``store`` (made if missing).

    The layer directories have short names, since an overlay mount's options must fit one page. A layer that
    occurs twice is listed once, where it is topmost: below itself it shows nothing.
    """
    image = resolve(source, reference.selector, platform or Platform())
    if encrypted_only:
        _refuse_plain(image.manifest)
    keys = [_unlock(i, layer, unwrap) for i, layer in enumerate(image.manifest.layers)]
    directory = make_temporary(store)
    try:
        names = _unpack_layers(source, image, keys, directory, limits or Limits(), progress)
        final = publish(directory, store)
    except BaseException:
        remove_tree(directory)
        raise
    layers = tuple(os.path.join(final, name) for name in names)
    return PulledImage(reference, image.manifest_digest, image.config, layers, final)


def resolve(source: ImageSource, selector: str, platform: Platform) -> ResolvedImage:
    """Steps 1 to 3 for the image at a tag or digest."""
    with explained():
        return _resolve(source, selector, platform)


def _resolve(source: ImageSource, selector: str, platform: Platform) -> ResolvedImage:
    # (1)
    raw = source.manifest(selector)
    if ":" in selector:
        _expect(raw, Digest.parse(selector), None)
    document = decode_document(raw.body)
    # (2)
    if isinstance(document, Index):
        entry = document.select(platform)
        raw = source.manifest(str(entry.digest))
        _expect(raw, entry.digest, entry.size)
        document = decode_document(raw.body)
        if isinstance(document, Index):
            raise DecodeError("the image index points to another index", code="image.nested-index")
    # (3)
    data = read_config(source, document)
    config = ImageConfig.decode(data)
    _check_config(document, config, platform)
    return ResolvedImage(raw.digest, raw, document, config, data)


def read_config(source: ImageSource, manifest: Manifest) -> bytes:
    """The configuration's bytes, verified."""
    descriptor = manifest.config
    if descriptor.media_type not in mediatypes.CONFIGS:
        raise DecodeError(
            f"the manifest is not of a container image: its configuration is {descriptor.media_type[:140]!r}",
            code="image.media-type",
        )
    if descriptor.size > MAX_CONFIG:
        raise DecodeError(f"the configuration has {descriptor.size} bytes, more than {MAX_CONFIG}")
    with closing(source.blob(descriptor)) as stream:
        verified = VerifyingReader(stream, descriptor.digest, descriptor.size, check="config")
        return read_all(verified, MAX_CONFIG)


def _expect(raw: RawManifest, digest: Digest, size: int | None) -> None:
    if len(raw.body) > MAX_MANIFEST:
        raise DecodeError(f"the manifest has {len(raw.body)} bytes, more than {MAX_MANIFEST}")
    actual = Digest.of(raw.body, digest.algorithm)
    if actual != digest or size not in (None, len(raw.body)):
        raise VerificationError(
            f"the registry answered with a manifest of digest {actual} instead of {digest}",
            code="image.manifest-digest",
            remedy="it was changed or damaged on the way; do not trust this registry",
        )


def _check_config(manifest: Manifest, config: ImageConfig, platform: Platform) -> None:
    if (config.os, config.architecture) != (platform.os, platform.architecture):
        raise DecodeError(
            f"the image is for {config.os}/{config.architecture}, not for {platform}",
            code="image.platform",
            remedy="build or pull the image for this platform",
        )
    if len(config.diff_ids) != len(manifest.layers):
        raise VerificationError(
            f"the manifest has {len(manifest.layers)} layers, the configuration {len(config.diff_ids)}",
            code="image.layer-count",
        )


def _refuse_plain(manifest: Manifest) -> None:
    """Step 4. An image without layers is nobody's, too."""
    plain = [not mediatypes.is_encrypted(layer.media_type) for layer in manifest.layers]
    if any(plain) or not plain:
        where = f"layer {plain.index(True) + 1} is not encrypted" if plain else "the image has no layers"
        raise RefusedError(
            f"this guest runs encrypted images only, and {where}",
            code="image.plain-layer",
            remedy="encrypt every layer; or leave agent.encrypted_images_only out, which changes the launch"
            " digest",
        )


def _unlock(index: int, layer: Descriptor, unwrap: KeyUnwrapper | None) -> LayerKey | None:
    with explained(f"layer {index + 1}: "):
        return unlock(layer, unwrap)


def _unpack_layers(
    source: ImageSource,
    image: ResolvedImage,
    keys: list[LayerKey | None],
    directory: str,
    limits: Limits,
    progress: Progress | None,
) -> list[str]:
    names: list[str] = []
    layers = image.manifest.layers
    for index, (layer, key, diff_id) in enumerate(zip(layers, keys, image.config.diff_ids, strict=True)):
        if _recurs(image, index):
            continue
        target = os.path.join(directory, str(index))
        os.mkdir(target, 0o755)
        lowers = tuple(os.path.join(directory, name) for name in reversed(names))
        what = f"layer {index + 1} of {len(layers)}"
        with explained(f"{what}: "), closing(open_compressed(source, layer, key)) as stream:
            counted = ReportingReader(stream, what, layer.size, progress)
            _unpack_layer(counted, layer.media_type, diff_id, target, lowers, limits)
        names.append(str(index))
    return names


def _recurs(image: ResolvedImage, index: int) -> bool:
    """Whether the same blob stands again further up, where it will be unpacked and verified."""
    layers, diff_ids = image.manifest.layers, image.config.diff_ids
    for later in range(index + 1, len(layers)):
        if layers[later].digest == layers[index].digest:
            if diff_ids[later] != diff_ids[index]:
                raise VerificationError("one layer has two diff_ids", code="image.diff-id")
            return True
    return False


def _unpack_layer(
    stream: ByteStream, media_type: str, diff_id: Digest, target: str, lowers: tuple[str, ...], limits: Limits
) -> None:
    try:
        tar = open_inflated(stream, mediatypes.compression(media_type), limits.size)
        verified = VerifyingReader(tar, diff_id, None, check="diff-id")
        unpack(verified, target, lowers=lowers, limits=limits)
        drain(verified)
    except (UnavailableError, VerificationError):
        raise
    except SealpodError:
        # Damaged bytes fail long before the end, where a digest would have told the real cause; and until
        # an HMAC has spoken, what failed may be plaintext somebody made of a secret for us to quote.
        drain(stream)
        raise
    drain(stream)
