# SPDX-License-Identifier: Apache-2.0
"""What every image source and sink promises: memory, layout on disk, registry; and one that fails."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from imagekit import FailingStore, MemoryStore, Pieces, put_image, sample_layers
from localregistry import PROGRAM, docker_registry

from sealpod.errors import NotFoundError, SealpodError, UnavailableError, VerificationError
from sealpod.image.ports import ImageSink, ImageSource
from sealpod.oci.descriptor import Descriptor
from sealpod.oci.digest import Digest
from sealpod.oci.manifest import Manifest
from sealpod.registry.layout import LayoutSink
from sealpod.registry.transports import open_sink

Maker = Callable[[], ImageSink]


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    if PROGRAM is None:
        pytest.skip("docker-registry is not installed")
    with tempfile.TemporaryDirectory() as area, docker_registry(area) as host:
        yield host


@pytest.fixture(params=["memory", "layout", pytest.param("registry", marks=pytest.mark.network)])
def sink(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ImageSink:
    if request.param == "memory":
        return MemoryStore()
    if request.param == "layout":
        return LayoutSink(str(tmp_path_factory.mktemp("layout") / "image"))
    host = request.getfixturevalue("registry")
    return open_sink(f"docker://{host}/contract/r{os.urandom(4).hex()}:v1").sink


def read(source: ImageSource, descriptor: Descriptor, size: int = 1000) -> bytes:
    with closing(source.blob(descriptor)) as stream:
        parts = list(iter(lambda: stream.read(size), b""))
        assert stream.read(size) == b""
    assert all(len(part) <= size for part in parts)
    return b"".join(parts)


def test_blobs_come_back(sink: ImageSink) -> None:
    for data in (b"x", os.urandom(300_000)):
        descriptor = Descriptor("application/octet-stream", Digest.of(data), len(data))
        assert not sink.has_blob(descriptor)
        assert sink.put_blob(Pieces(data, 7000)) == (descriptor.digest, len(data))
        assert sink.has_blob(descriptor)
        assert read(sink.reader(), descriptor) == data
        assert sink.put_blob(Pieces(data)) == (descriptor.digest, len(data))


def test_manifests_come_back(sink: ImageSink) -> None:
    raw = put_image(sink, "v1", sample_layers())
    source = sink.reader()
    assert source.manifest("v1") == raw
    assert source.manifest(str(raw.digest)) == raw
    for descriptor in Manifest.decode(raw.body).layers:
        assert Digest.of(read(source, descriptor)) == descriptor.digest


def test_a_tag_moves(sink: ImageSink) -> None:
    old = put_image(sink, "v1", sample_layers())
    new = put_image(sink, "v1", sample_layers())
    assert old != new
    assert sink.reader().manifest("v1") == new


def test_what_is_not_there(sink: ImageSink) -> None:
    put_image(sink, "v1", sample_layers())
    source = sink.reader()
    for selector in ("v2", str(Digest.of(b"none"))):
        with pytest.raises(NotFoundError) as caught:
            source.manifest(selector)
        assert caught.value.code == "image.not-found"
    with pytest.raises(NotFoundError) as caught:
        source.blob(Descriptor("x", Digest.of(b"none"), 4))
    assert caught.value.code == "image.blob-not-found"


def test_a_stream_that_fails_stores_nothing(sink: ImageSink) -> None:
    data = os.urandom(2000)

    class Breaking(Pieces):
        def read(self, size: int, /) -> bytes:
            piece = super().read(500)
            if not piece:
                raise VerificationError("damaged", code="image.blob-digest")
            return piece

    with pytest.raises(VerificationError, match="damaged"):
        sink.put_blob(Breaking(data))
    assert not sink.has_blob(Descriptor("x", Digest.of(data), len(data)))


def test_a_stream_is_closed_early(sink: ImageSink) -> None:
    data = os.urandom(100_000)
    digest, size = sink.put_blob(Pieces(data))
    stream = sink.reader().blob(Descriptor("x", digest, size))
    assert data.startswith(stream.read(10))
    stream.close()
    stream.close()


def test_the_failing_store_fails_with_our_errors() -> None:
    store = FailingStore(after=10)
    raw = put_image(MemoryStore(store.manifests, store.blobs), "v1", sample_layers())
    layer = Manifest.decode(raw.body).layers[0]
    with pytest.raises(UnavailableError):
        read(store, layer)
    with pytest.raises(SealpodError):
        store.put_blob(Pieces(b"x"))
