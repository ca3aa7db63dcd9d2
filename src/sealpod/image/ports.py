# SPDX-License-Identifier: Apache-2.0
"""What the image rules need from outside: somewhere to read an image, somewhere to write one, and keys.

A source hands over bytes as it finds them; nobody below this port verifies anything, everything above does
(:mod:`sealpod.image.verify`). Implementations: :mod:`sealpod.registry` (HTTP, OCI layout); a memory
one and a failing one live with the tests, and all pass one contract suite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from sealpod.oci.descriptor import Descriptor
from sealpod.oci.digest import Digest
from sealpod.ocicrypt.packet import AnnotationPacket
from sealpod.record import Record
from sealpod.secret import SecretBytes

CHUNK: Final = 256 * 1024  # bytes per read; large enough for the hash functions, small enough for a guest

#: A packet in, the private options JSON out; raises a SealpodError that names the real cause.
KeyUnwrapper = Callable[[AnnotationPacket], SecretBytes]


class Progress(Protocol):
    """Told about work in progress: what, bytes done, bytes in all. May be called often."""

    def __call__(self, what: str, done: int, total: int) -> None: ...


class ByteStream(Protocol):
    """Bytes in order. ``read`` returns at most ``size`` bytes, empty only at the end."""

    def read(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


class RawManifest(Record):
    """A manifest or index as it was received: its body is what digests are of."""

    media_type: str
    body: bytes

    @property
    def digest(self) -> Digest:
        """The SHA-256 digest of the body."""
        return Digest.of(self.body)


class ImageSource(Protocol):
    """Reads the images of one repository or layout."""

    def manifest(self, selector: str) -> RawManifest:
        """The manifest or index at a tag or digest (``""``: the only one there is).

        At most 4 MiB. NotFoundError (``image.not-found``), UnavailableError, AccessError.
        """
        ...

    def blob(self, descriptor: Descriptor) -> ByteStream:
        """The content of ``descriptor``, from its first byte; the caller closes it.

        NotFoundError (``image.blob-not-found``), UnavailableError, also from ``read``.
        """
        ...


class ImageSink(Protocol):
    """Writes images to one repository or layout."""

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the content is there already."""
        ...

    def put_blob(self, stream: ByteStream) -> tuple[Digest, int]:
        """Store all that ``stream`` gives; its SHA-256 digest and size. Nothing stays if reading fails."""
        ...

    def put_manifest(self, selector: str, manifest: RawManifest) -> None:
        """File a manifest under a tag (or its own digest). Its blobs must be there."""
        ...

    def reader(self) -> ImageSource:
        """A source over what was written here."""
        ...
