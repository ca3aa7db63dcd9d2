# SPDX-License-Identifier: Apache-2.0
"""Debian's docker-registry keeps what we push, byte for byte, and what it keeps is ciphertext."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from imagekit import KEK, MemoryStore, Pieces, make_tar, member, put_image, sample_layers, unwrapper
from localregistry import PROGRAM, docker_registry
from scripted import unused_port

from sealpod.cli import main as cli
from sealpod.errors import NotFoundError, SealpodError, UnavailableError
from sealpod.image.encrypt import Recipient, encrypt
from sealpod.image.ports import RawManifest
from sealpod.image.pull import pull
from sealpod.image.transfer import copy
from sealpod.oci import mediatypes
from sealpod.oci.descriptor import Descriptor
from sealpod.oci.digest import Digest
from sealpod.oci.reference import ImageReference
from sealpod.registry.transports import open_sink, open_source, registry_source

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(PROGRAM is None, reason="docker-registry is not installed"),
]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners need root")

PLANTED = b"planted-plaintext-" * 60


@pytest.fixture(scope="module")
def area() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as path:
        yield path


@pytest.fixture(scope="module")
def registry(area: str) -> Iterator[str]:
    with docker_registry(area) as host:
        yield host


def planted_layers() -> list[bytes]:
    return [make_tar([member("etc/secret", content=PLANTED)]), *sample_layers()]


def test_push_and_pull_are_byte_for_byte(registry: str) -> None:
    memory, again = MemoryStore(), MemoryStore()
    put_image(memory, "v1", planted_layers())
    encrypt(memory, "v1", memory, "enc", Recipient(KEK, "key_id1"), rng=os.urandom)
    sink, tag = open_sink(f"docker://{registry}/t/app:enc")
    copy(memory, "enc", sink, tag)
    source, selector = open_source(f"docker://{registry}/t/app:enc")
    copy(source, selector, again, "enc")
    assert again.manifests["enc"] == memory.manifests["enc"]
    for digest, data in again.blobs.items():
        assert memory.blobs[digest] == data


@needs_root
def test_encrypted_straight_into_the_registry_and_pulled(registry: str, tmp_path: Path, area: str) -> None:
    memory = MemoryStore()
    # Not compressed, so that the planted text would stand in the clear if anything left it there.
    put_image(memory, "v1", planted_layers(), compress=None)
    sink, tag = open_sink(f"docker://{registry}/t/direct:enc")
    encrypt(memory, "v1", sink, tag, Recipient(KEK, "key_id1"), rng=os.urandom)
    reference = ImageReference.parse(f"{registry}/t/direct:enc")
    image = pull(registry_source(reference), reference, unwrapper(), str(tmp_path))
    assert Path(image.layers[0], "etc/secret").read_bytes() == PLANTED
    kept = [path.read_bytes() for path in Path(area, "data").rglob("data") if path.is_file()]
    assert kept
    assert not [data for data in kept if PLANTED[:36] in data or KEK.reveal() in data]
    manifest = json.loads(sink.reader().manifest(tag).body)
    assert all(layer["mediaType"].endswith("+encrypted") for layer in manifest["layers"])


def test_an_index(registry: str) -> None:
    sink, _ = open_sink(f"docker://{registry}/t/index:v1")
    raw = put_image(sink, "amd", sample_layers())
    entry = {"mediaType": raw.media_type, "digest": str(raw.digest), "size": len(raw.body)}
    entry["platform"] = {"os": "linux", "architecture": "amd64"}
    index = {"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": [entry]}
    sink.put_manifest("v1", RawManifest(mediatypes.OCI_INDEX, json.dumps(index).encode()))
    memory = MemoryStore()
    assert copy(sink.reader(), "v1", memory, "v1") == raw.digest


def test_what_is_missing(registry: str) -> None:
    source, _ = open_source(f"docker://{registry}/t/none:v1")
    with pytest.raises(NotFoundError) as caught:
        source.manifest("v1")
    assert caught.value.code == "image.not-found"
    with pytest.raises(NotFoundError) as caught:
        source.blob(Descriptor("x", Digest.of(b"none"), 4))
    assert caught.value.code == "image.blob-not-found"


def test_a_manifest_without_its_blobs(registry: str) -> None:
    memory = MemoryStore()
    raw = put_image(memory, "v1", sample_layers())
    sink, _ = open_sink(f"docker://{registry}/t/empty:v1")
    with pytest.raises(SealpodError, match="MANIFEST_BLOB_UNKNOWN"):
        sink.put_manifest("v1", raw)


def test_a_push_that_breaks_leaves_no_blob(registry: str) -> None:
    class Broken(Pieces):
        def read(self, size: int, /) -> bytes:
            data = super().read(size)
            if not data:
                raise UnavailableError("gone")
            return data

    data = os.urandom(1000)
    sink, _ = open_sink(f"docker://{registry}/t/broken:v1")
    with pytest.raises(UnavailableError, match="gone"):
        sink.put_blob(Broken(data))
    assert not sink.has_blob(Descriptor("x", Digest.of(data), len(data)))


def test_a_large_layer(registry: str) -> None:
    """Larger than any buffer on the way."""
    memory = MemoryStore()
    put_image(memory, "v1", [make_tar([member("big", content=os.urandom(5 << 20))])], compress=gzip.compress)
    sink, tag = open_sink(f"docker://{registry}/t/big:v1")
    copy(memory, "v1", sink, tag)
    again = MemoryStore()
    copy(sink.reader(), tag, again, "v1")
    assert again.blobs == memory.blobs


def test_the_command_line(registry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_image(open_sink(f"oci:{tmp_path}/plain:v1").sink, "v1", sample_layers())
    (tmp_path / "key").write_bytes(KEK.reveal())
    target = f"docker://{registry}/t/cli:enc"
    command = ["image", "encrypt", f"oci:{tmp_path}/plain:v1", target, "--key-id", "key_id1"]
    assert cli.dispatch([*command, "--key-file", str(tmp_path / "key")]) == 0
    assert cli.dispatch(["image", "copy", target, f"oci:{tmp_path}/copy:enc"]) == 0
    capsys.readouterr()
    seen = []
    for name in (target, f"oci:{tmp_path}/copy:enc"):
        assert cli.dispatch(["image", "inspect", name, "-o", "json"]) == 0
        seen.append(json.loads(capsys.readouterr().out))
    assert seen[0] == seen[1]
    assert [(layer["encrypted"], layer["keyIds"]) for layer in seen[0]["layers"]] == [(True, ["key_id1"])] * 2
    assert seen[0]["schemaVersion"] == 1


def test_a_registry_that_is_down() -> None:
    source, _ = open_source(f"docker://127.0.0.1:{unused_port()}/t/app:v1")
    with pytest.raises(UnavailableError) as caught:
        source.manifest("v1")
    assert caught.value.code == "registry.unreachable"
