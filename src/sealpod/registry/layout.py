# SPDX-License-Identifier: Apache-2.0
"""An OCI image layout on disk as image source and sink (OCI image spec, image-layout.md).

::

    oci-layout            {"imageLayoutVersion":"1.0.0"}
    index.json            one descriptor per image, its tag in org.opencontainers.image.ref.name
    blobs/sha256/<hex>    manifests, configurations, layers

Every file appears by rename, complete or not at all; the index comes last. Digests in file names are read
from descriptors, whose parser lets nothing but hex through.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

from sealpod.errors import AccessError, DecodeError, NotFoundError, OperationError, SealpodError
from sealpod.image.ports import CHUNK, ByteStream, ImageSource, RawManifest
from sealpod.oci import mediatypes
from sealpod.oci.descriptor import Descriptor
from sealpod.oci.digest import SHA256, Digest
from sealpod.oci.manifest import MAX_MANIFEST, Index, decode_document

REF_NAME: Final = "org.opencontainers.image.ref.name"
MARKER: Final = b'{"imageLayoutVersion":"1.0.0"}'


class LayoutSource:
    """Reads the layout in a directory."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def manifest(self, selector: str) -> RawManifest:
        """See :class:`sealpod.image.ports.ImageSource`."""
        digest = Digest.parse(selector) if ":" in selector else self._find(selector).digest
        body = self._small(_blob_path(self._directory, digest), f"manifest {digest}")
        return RawManifest(decode_document(body).media_type, body)

    def blob(self, descriptor: Descriptor) -> ByteStream:
        """See :class:`sealpod.image.ports.ImageSource`."""
        path = _blob_path(self._directory, descriptor.digest)
        try:
            return _File(path)
        except FileNotFoundError as error:
            raise NotFoundError(
                f"the image layout {self._directory} has no blob {descriptor.digest}",
                code="image.blob-not-found",
            ) from error
        except OSError as error:
            raise _explain(path, error) from error

    def index(self) -> Index:
        """The layout's index; NotFoundError (``image.not-found``) if there is no layout."""
        return Index.decode(self._small(os.path.join(self._directory, "index.json"), "image layout"))

    def _find(self, tag: str) -> Descriptor:
        entries = self.index().manifests
        found = [entry for entry in entries if not tag or entry.annotations.get(REF_NAME) == tag]
        if len(found) == 1:
            return found[0]
        tags = ", ".join(sorted(entry.annotations.get(REF_NAME, "") for entry in entries)) or "none"
        raise NotFoundError(
            f"the image layout {self._directory} has {len(found)} images"
            + (f" tagged {tag!r}" if tag else "")
            + f" (tags: {tags})",
            code="image.not-found",
            remedy="name one of its tags: oci:DIRECTORY:TAG",
        )

    def _small(self, path: str, what: str) -> bytes:
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_MANIFEST + 1)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(
                f"there is no {what} at {self._directory}",
                code="image.not-found",
                remedy="check the directory; an OCI layout holds index.json and blobs/",
            ) from error
        except OSError as error:
            raise _explain(path, error) from error
        if len(data) > MAX_MANIFEST:
            raise DecodeError(f"{what} at {path} has more than {MAX_MANIFEST} bytes")
        return data


class LayoutSink:
    """Writes the layout in a directory, which is made when the first thing is written."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def has_blob(self, descriptor: Descriptor) -> bool:
        """See :class:`sealpod.image.ports.ImageSink`."""
        try:
            return os.stat(_blob_path(self._directory, descriptor.digest)).st_size == descriptor.size
        except OSError:
            return False

    def put_blob(self, stream: ByteStream) -> tuple[Digest, int]:
        """See :class:`sealpod.image.ports.ImageSink`."""
        try:
            self._prepare()
            return self._put_blob(stream)
        except OSError as error:
            raise _explain(self._directory, error) from error

    def _put_blob(self, stream: ByteStream) -> tuple[Digest, int]:
        hasher = Digest(SHA256, "").hasher()
        size = 0
        with _NewFile(os.path.join(self._directory, "blobs", SHA256)) as file:
            while data := stream.read(CHUNK):
                hasher.update(data)
                size += len(data)
                file.write(data)
            digest = Digest(SHA256, hasher.hexdigest())
            file.publish(_blob_path(self._directory, digest))
        return digest, size

    def put_manifest(self, selector: str, manifest: RawManifest) -> None:
        """See :class:`sealpod.image.ports.ImageSink`."""
        from sealpod.image.transfer import put_bytes

        put_bytes(self, manifest.body)
        annotations = {REF_NAME: selector} if selector and ":" not in selector else {}
        entry = Descriptor(manifest.media_type, manifest.digest, len(manifest.body), annotations)
        kept = [other for other in self._entries() if not _replaces(entry, other)]
        index = Index((*kept, entry), mediatypes.OCI_INDEX)
        try:
            with _NewFile(self._directory) as file:
                file.write(index.encode())
                file.publish(os.path.join(self._directory, "index.json"))
        except OSError as error:
            raise _explain(self._directory, error) from error

    def reader(self) -> ImageSource:
        """See :class:`sealpod.image.ports.ImageSink`."""
        return LayoutSource(self._directory)

    def _entries(self) -> tuple[Descriptor, ...]:
        with suppress(NotFoundError):
            return LayoutSource(self._directory).index().manifests
        return ()

    def _prepare(self) -> None:
        os.makedirs(os.path.join(self._directory, "blobs", SHA256), exist_ok=True)
        marker = os.path.join(self._directory, "oci-layout")
        if not os.path.exists(marker):
            with _NewFile(self._directory) as file:
                file.write(MARKER)
                file.publish(marker)


def _replaces(new: Descriptor, old: Descriptor) -> bool:
    """A tag names one image; an image without a tag is listed once."""
    tag = new.annotations.get(REF_NAME)
    return old.annotations.get(REF_NAME) == tag and (tag is not None or old.digest == new.digest)


class _File:
    def __init__(self, path: str) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close()

    def read(self, size: int, /) -> bytes:
        return self._file.read(size) or b""

    def close(self) -> None:
        self._file.close()


class _NewFile:
    """A temporary file in ``directory`` that gets its name by ``publish``, or is removed."""

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, f".new-{os.urandom(8).hex()}")
        self._published = False

    def __enter__(self) -> _NewFile:
        self._file = open(self._path, "xb", buffering=0)
        return self

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def publish(self, path: str) -> None:
        """Give the file its name; what stood there is replaced."""
        os.fsync(self._file.fileno())
        os.rename(self._path, path)
        self._published = True

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if not self._published:
            with suppress(OSError):
                os.unlink(self._path)


def _blob_path(directory: str, digest: Digest) -> str:
    return os.path.join(directory, "blobs", digest.algorithm, digest.hex)


def _explain(path: str, error: OSError) -> SealpodError:
    text = f"{path}: {os.strerror(error.errno or 0)}"
    if isinstance(error, PermissionError):
        return AccessError(
            text, code="image.layout-permission", remedy="check the directory's owner and mode"
        )
    return OperationError(text, code="image.layout")
