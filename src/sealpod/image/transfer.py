# SPDX-License-Identifier: Apache-2.0
"""Copy an image from a source to a sink: blobs first, the manifest last and byte for byte.

Whatever is in the blobs, ciphertext or not, stays as it is. Every blob is verified while it passes, so that a
copy never launders a damaged one.
"""

from __future__ import annotations

from contextlib import closing

from sealpod.errors import OperationError
from sealpod.image.ports import ByteStream, ImageSink, ImageSource, Progress
from sealpod.image.pull import resolve
from sealpod.image.verify import VerifyingReader
from sealpod.oci.descriptor import Descriptor, Platform
from sealpod.oci.digest import Digest


def copy(
    source: ImageSource,
    selector: str,
    sink: ImageSink,
    target: str,
    *,
    platform: Platform | None = None,
    progress: Progress | None = None,
) -> Digest:
    """Copy the image at ``selector`` (of an index: the platform's) to ``target``; its manifest's digest."""
    image = resolve(source, selector, platform or Platform())
    contents = (image.manifest.config, *image.manifest.layers)
    for number, descriptor in enumerate(contents):
        copy_blob(source, descriptor, sink, check="blob" if number else "config")
        if progress is not None:
            progress(f"blob {number + 1} of {len(contents)}", descriptor.size, descriptor.size)
    sink.put_manifest(target, image.raw)
    return image.manifest_digest


def copy_blob(source: ImageSource, descriptor: Descriptor, sink: ImageSink, *, check: str) -> None:
    """Copy one blob unless the sink has it."""
    if sink.has_blob(descriptor):
        return
    with closing(source.blob(descriptor)) as stream:
        verified = VerifyingReader(stream, descriptor.digest, descriptor.size, check=check)
        expect_stored(sink.put_blob(verified), descriptor)


def expect_stored(stored: tuple[Digest, int], descriptor: Descriptor) -> None:
    """Refuse a sink that kept something else than it was given."""
    if descriptor.digest.algorithm == stored[0].algorithm and stored != (descriptor.digest, descriptor.size):
        raise OperationError(f"the blob {descriptor.digest} was stored as {stored[0]}", code="image.store")


class Bytes:
    """A byte string as a stream."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, size: int, /) -> bytes:
        result, self._data = self._data[:size], self._data[size:]
        return result

    def close(self) -> None:
        self._data = b""


def put_bytes(sink: ImageSink, data: bytes) -> None:
    """Store a small blob."""
    stream: ByteStream = Bytes(data)
    sink.put_blob(stream)
