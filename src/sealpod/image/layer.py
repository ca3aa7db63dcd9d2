# SPDX-License-Identifier: Apache-2.0
"""One layer: from its descriptor and a key to verified plaintext.

The chain of readers, each of which speaks its verdict at the end of the stream::

    blob -> size, digest -> HMAC, decrypt -> digest before encryption -> inflate -> diff_id -> tar
            (manifest)      (public opts)    (private opts)                         (configuration)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sealpod.errors import DecodeError, NotFoundError, RefusedError, SealpodError
from sealpod.image.ports import ByteStream, ImageSource, KeyUnwrapper
from sealpod.image.verify import DecryptingReader, VerifyingReader
from sealpod.oci import mediatypes
from sealpod.oci.descriptor import Descriptor
from sealpod.oci.digest import Digest
from sealpod.ocicrypt import annotations as enc
from sealpod.ocicrypt import keywrap, options
from sealpod.ocicrypt.cipher import Decryptor
from sealpod.ocicrypt.packet import AnnotationPacket
from sealpod.record import Record

_REMEDY: Final = "build the image again and push it; if that does not help, report how it was built"


class LayerKey(Record):
    """What decrypts one layer. Holds the layer key: do not print, do not keep."""

    public: options.PublicOptions
    private: options.PrivateOptions

    def decryptor(self) -> Decryptor:
        """A decryptor at the layer's first byte."""
        nonce = options.nonce_of(self.public, self.private)
        return Decryptor(self.private.symkey, nonce, self.public.hmac)


def unlock(descriptor: Descriptor, unwrap: KeyUnwrapper | None) -> LayerKey | None:
    """The key of an encrypted layer, None for a plain one.

    Every packet is tried; if none opens, the error is the first packet's that failed for another reason than
    an unknown key, with the others' words beside it. RefusedError (``image.no-key``) without an unwrapper.
    """
    mediatypes.compression(descriptor.media_type)  # refuses what is no layer
    if not mediatypes.is_encrypted(descriptor.media_type):
        if enc.has_keys(descriptor.annotations):
            raise DecodeError(
                f"the layer has encryption annotations, but the plain type {descriptor.media_type}",
                code="image.media-type",
                remedy="encrypt the image into an OCI layout or registry, not into a Docker format",
            )
        return None
    if unwrap is None:
        raise RefusedError(
            "the layer is encrypted, and there is no key broker to ask for its key",
            code="image.no-key",
            remedy="name a key broker (--kbc online or offline, with --kbs), or use a plain image",
        )
    public = options.PublicOptions.decode(enc.public_options(descriptor.annotations))
    return LayerKey(public, _private_options(descriptor, unwrap))


def open_compressed(source: ImageSource, descriptor: Descriptor, key: LayerKey | None) -> ByteStream:
    """The layer as it was before encryption, verified up to the digest of the private options."""
    decryptor = key.decryptor() if key is not None else None
    blob: ByteStream = VerifyingReader(
        source.blob(descriptor), descriptor.digest, descriptor.size, check="blob"
    )
    if key is None or decryptor is None:
        return blob
    plain = DecryptingReader(blob, decryptor)
    return VerifyingReader(plain, Digest.parse(key.private.digest), descriptor.size, check="layer")


def _private_options(descriptor: Descriptor, unwrap: KeyUnwrapper) -> options.PrivateOptions:
    failures: list[SealpodError] = []
    for data in enc.packets(descriptor.annotations):
        try:
            packet = AnnotationPacket.decode(data)
            return _open_packet(packet, unwrap)
        except SealpodError as error:
            failures.append(error)
    if not failures:
        schemes = ", ".join(enc.other_schemes(descriptor.annotations)) or "none"
        raise NotFoundError(
            f"the layer has no key packet of a key broker (other schemes: {schemes})",
            code="image.no-packet",
            remedy="encrypt the image with `sealpod image encrypt`",
        )
    raise _most_telling(failures)


def _open_packet(packet: AnnotationPacket, unwrap: KeyUnwrapper) -> options.PrivateOptions:
    secret = unwrap(packet)
    try:
        private = options.PrivateOptions.decode(secret)
        Digest.parse(private.digest)  # here, where its error, which quotes it, is not shown
        return private
    except DecodeError as error:
        raise keywrap.wrong_key(packet.kid) from error


def _most_telling(failures: list[SealpodError]) -> SealpodError:
    """An unknown key id is normal among several recipients; anything else is why it did not work."""
    known = [error for error in failures if not isinstance(error, NotFoundError)]
    chosen = (known or failures)[0]
    others = [error.message for error in failures if error is not chosen]
    return _reword(chosen, f"{chosen.message} (other recipients: {'; '.join(others)})") if others else chosen


@contextmanager
def explained(prefix: str = "") -> Iterator[None]:
    """Say where an error of the block happened, and what to do if nobody said so yet."""
    try:
        yield
    except SealpodError as error:
        # A registry's or key broker's failure is not cured by another image.
        if not error.remedy and error.code.startswith(("image.", "decode.")):
            error.remedy = _REMEDY
        _reword(error, f"{prefix}{error.message}")
        raise


def _reword(error: SealpodError, message: str) -> SealpodError:
    error.message = message
    error.args = (message,)
    return error
