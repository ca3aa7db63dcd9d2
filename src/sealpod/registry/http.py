# SPDX-License-Identifier: Apache-2.0
"""A registry's repository as image source and sink (OCI distribution spec, "Pull" and "Push").

The ``Docker-Content-Digest`` header is not read: what a body hashes to is for the image rules to find out.
A blob's download that breaks is taken up where it broke (``Range``), invisible to the digests above.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Final
from urllib.parse import quote, urljoin

from sealpod.errors import NotFoundError, OperationError, SealpodError
from sealpod.image.ports import CHUNK, ByteStream, ImageSource, RawManifest
from sealpod.oci import mediatypes
from sealpod.oci.descriptor import Descriptor
from sealpod.oci.digest import SHA256, Digest
from sealpod.oci.manifest import MAX_MANIFEST
from sealpod.registry.client import PUSH, RegistryClient
from sealpod.registry.connection import Reply
from sealpod.registry.failures import Failure, explain, is_transient

# Without the OCI types in it a registry hides OCI manifests (404); `*/*` is not enough for docker-registry 2.
ACCEPT: Final = ", ".join((*mediatypes.MANIFESTS, *mediatypes.INDEXES))
MAX_RESUMES: Final = 5  # in a row without a byte between them


class RegistrySource:
    """Reads one repository."""

    def __init__(self, client: RegistryClient) -> None:
        self._client = client

    def manifest(self, selector: str) -> RawManifest:
        """See :class:`sealpod.image.ports.ImageSource`."""
        url = self._client.url(f"manifests/{quote(selector, safe=':')}")
        try:
            reply = self._client.request("GET", url, accept=(200,), headers={"Accept": ACCEPT})
        except NotFoundError as error:
            raise NotFoundError(
                f"the registry {self._client.registry} has no image {self._client.repository} at {selector}",
                code="image.not-found",
                remedy="check name and tag, and that the image was pushed",
            ) from error
        media_type = reply.header("Content-Type").partition(";")[0].strip()
        try:
            return RawManifest(media_type, reply.read_all(MAX_MANIFEST))
        except Failure as error:
            raise explain(self._client.registry, error) from error

    def blob(self, descriptor: Descriptor) -> ByteStream:
        """See :class:`sealpod.image.ports.ImageSource`."""
        return _Blob(self._client, descriptor)


class _Blob:
    """A blob's bytes, across connections."""

    def __init__(self, client: RegistryClient, descriptor: Descriptor) -> None:
        self._client = client
        self._digest = descriptor.digest
        self._url = client.url(f"blobs/{descriptor.digest}")
        self._position = 0
        self._reply: Reply | None = self._open()

    def read(self, size: int, /) -> bytes:
        for attempt in range(MAX_RESUMES + 1):
            try:
                if self._reply is None:
                    self._reply = self._open()
                data = self._reply.read(size)
            except Failure as error:
                self.close()
                if attempt == MAX_RESUMES or not is_transient(error):
                    raise explain(self._client.registry, error) from error
                continue
            self._position += len(data)
            return data
        raise OperationError("no attempt was made", code="registry.status")

    def close(self) -> None:
        if self._reply is not None:
            self._reply.close()
            self._reply = None

    def _open(self) -> Reply:
        """The reply whose next byte is the one at the position."""
        headers = {"Range": f"bytes={self._position}-"} if self._position else {}
        try:
            reply = self._client.request("GET", self._url, accept=(200, 206), headers=headers)
        except NotFoundError as error:
            raise NotFoundError(
                f"the registry {self._client.registry} has no blob {self._digest}",
                code="image.blob-not-found",
                remedy="push the image again: its manifest is there, but not all of its layers",
            ) from error
        if self._position and reply.status == 200:
            _skip(reply, self._position)  # a server that does not know ranges begins again
        elif self._position and not _starts_at(reply, self._position):
            reply.close()
            raise OperationError("the registry resumed at another position than asked", code="registry.range")
        return reply


class RegistrySink:
    """Writes one repository."""

    def __init__(self, client: RegistryClient) -> None:
        self._client = client

    def has_blob(self, descriptor: Descriptor) -> bool:
        """See :class:`sealpod.image.ports.ImageSink`."""
        url = self._client.url(f"blobs/{descriptor.digest}")
        reply = self._client.request("HEAD", url, accept=(200, 404), actions=PUSH)
        reply.read_all(MAX_MANIFEST)
        return reply.status == 200

    def put_blob(self, stream: ByteStream) -> tuple[Digest, int]:
        """See :class:`sealpod.image.ports.ImageSink`: POST, one streaming PATCH, PUT with the digest."""
        location = self._start()
        counted = _Hashing(stream)
        try:
            location = self._send("PATCH", location, (202, 204), counted.chunks())
            digest, size = counted.result()
            separator = "&" if "?" in location else "?"
            self._send("PUT", f"{location}{separator}digest={quote(str(digest))}", (201, 204), b"")
        except BaseException:
            self._cancel(location)
            raise
        return digest, size

    def put_manifest(self, selector: str, manifest: RawManifest) -> None:
        """See :class:`sealpod.image.ports.ImageSink`."""
        url = self._client.url(f"manifests/{quote(selector, safe=':')}")
        headers = {"Content-Type": manifest.media_type}
        accept = (200, 201, 202)
        self._client.request(
            "PUT", url, accept=accept, headers=headers, body=manifest.body, actions=PUSH
        ).close()

    def reader(self) -> ImageSource:
        """See :class:`sealpod.image.ports.ImageSink`."""
        return RegistrySource(self._client)

    def _start(self) -> str:
        url = self._client.url("blobs/uploads/")
        return self._location(url, self._client.request("POST", url, accept=(202,), body=b"", actions=PUSH))

    def _send(self, method: str, url: str, accept: tuple[int, ...], body: bytes | Iterator[bytes]) -> str:
        headers = {"Content-Type": "application/octet-stream"}
        reply = self._client.request(method, url, accept=accept, headers=headers, body=body, actions=PUSH)
        return self._location(url, reply)

    @staticmethod
    def _location(url: str, reply: Reply) -> str:
        location = reply.header("Location")
        reply.close()
        return urljoin(url, location) if location else url

    def _cancel(self, location: str) -> None:
        """Tell the registry to forget an upload; it would expire by itself otherwise."""
        with suppress(SealpodError):
            self._client.request("DELETE", location, accept=(200, 202, 204, 404), actions=PUSH).close()


class _Hashing:
    """Chunks of a stream, and what they hash to."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._size = 0
        self._hasher = Digest(SHA256, "").hasher()

    def chunks(self) -> Iterator[bytes]:
        while data := self._stream.read(CHUNK):
            self._hasher.update(data)
            self._size += len(data)
            yield data

    def result(self) -> tuple[Digest, int]:
        return Digest(SHA256, self._hasher.hexdigest()), self._size


def _skip(reply: Reply, count: int) -> None:
    while count:
        data = reply.read(min(count, CHUNK))
        if not data:
            return
        count -= len(data)


def _starts_at(reply: Reply, position: int) -> bool:
    return reply.header("Content-Range").startswith(f"bytes {position}-")
