# SPDX-License-Identifier: Apache-2.0
"""Pulling: every check has its code, and a refused image leaves nothing in the store."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imagekit import KEK, FailingStore, MemoryStore, make_tar, member, put_image, sample_layers, unwrapper

from sealpod.errors import (
    DecodeError,
    NotFoundError,
    OperationError,
    RefusedError,
    SealpodError,
    UnavailableError,
    VerificationError,
)
from sealpod.image.encrypt import Recipient, encrypt
from sealpod.image.ports import KeyUnwrapper, RawManifest
from sealpod.image.pull import PulledImage, pull
from sealpod.oci import mediatypes
from sealpod.oci.digest import Digest
from sealpod.oci.reference import ImageReference
from sealpod.ocicrypt import annotations as enc
from sealpod.ocicrypt.packet import AnnotationPacket
from sealpod.secret import SecretBytes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners need root")

TAG = ImageReference.parse("localhost/app:v1")
Document = dict[str, Any]


@pytest.fixture
def store() -> Iterator[str]:
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=base) as path:
        yield path


@pytest.fixture
def plain() -> MemoryStore:
    memory = MemoryStore()
    put_image(memory, "v1", sample_layers())
    return memory


@pytest.fixture
def sealed(plain: MemoryStore) -> MemoryStore:
    memory = MemoryStore()
    encrypt(plain, "v1", memory, "v1", Recipient(KEK, "key_id1"), rng=os.urandom)
    return memory


def take(
    source: MemoryStore, store: str, unwrap: KeyUnwrapper | None = None, reference: ImageReference = TAG
) -> PulledImage:
    return pull(source, reference, unwrap, store)


def refuse(
    source: MemoryStore, store: str, code: str, kind: type[SealpodError], unwrap: KeyUnwrapper | None = None
) -> SealpodError:
    """Pulling fails with this code, and nothing stays."""
    with pytest.raises(kind) as caught:
        take(source, store, unwrap)
    assert caught.value.code == code
    assert os.listdir(store) == []
    assert caught.value.remedy or kind is not DecodeError
    return caught.value


def edit(source: MemoryStore, change: Callable[[Document], None], tag: str = "v1") -> None:
    """Change the manifest as someone would who owns the registry."""
    document = json.loads(source.manifests[tag].body)
    change(document)
    body = json.dumps(document).encode()
    source.put_manifest(tag, RawManifest(document.get("mediaType", ""), body))


def content(image: PulledImage, path: str) -> bytes:
    for layer in reversed(image.layers):
        if os.path.exists(os.path.join(layer, path)):
            return Path(layer, path).read_bytes()
    raise FileNotFoundError(path)


def test_plain(plain: MemoryStore, store: str) -> None:
    image = take(plain, store)
    assert content(image, "run.sh") == b"#!/bin/sh\n"
    assert image.manifest_digest == plain.manifests["v1"].digest
    assert image.config.cmd == ("/bin/true",)
    assert image.layers == (f"{store}/0/0", f"{store}/0/1")
    assert take(plain, store).layers[0] == f"{store}/1/0"


@pytest.mark.parametrize("piece", [0, 1000, 1])
def test_encrypted(piece: int, plain: MemoryStore, sealed: MemoryStore, store: str) -> None:
    sealed.piece = piece
    image = take(sealed, store, unwrapper())
    assert content(image, "etc/motd") == content(take(plain, store), "etc/motd")


def test_by_digest(plain: MemoryStore, store: str) -> None:
    digest = plain.manifests["v1"].digest
    reference = ImageReference.parse(f"localhost/app@{digest}")
    assert take(plain, store, reference=reference).manifest_digest == digest
    plain.manifests[str(digest)] = RawManifest(mediatypes.OCI_MANIFEST, plain.manifests["v1"].body + b" ")
    with pytest.raises(VerificationError) as caught:
        take(plain, store, reference=reference)
    assert caught.value.code == "image.manifest-digest"


def test_index(plain: MemoryStore, store: str) -> None:
    entry = {"mediaType": mediatypes.OCI_MANIFEST, "digest": str(plain.manifests["v1"].digest)}
    entry |= {"size": len(plain.manifests["v1"].body), "platform": {"os": "linux", "architecture": "amd64"}}
    index = {"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": [entry]}
    plain.put_manifest("v1", RawManifest(mediatypes.OCI_INDEX, json.dumps(index).encode()))
    image = take(plain, store)
    assert str(image.manifest_digest) == entry["digest"]
    entry["size"] += 1
    plain.put_manifest("v1", RawManifest(mediatypes.OCI_INDEX, json.dumps(index).encode()))
    with pytest.raises(VerificationError):
        take(plain, store)


def test_nested_index(plain: MemoryStore, store: str) -> None:
    inner = RawManifest(mediatypes.OCI_INDEX, b'{"schemaVersion":2,"manifests":[]}')
    plain.put_manifest("inner", inner)
    entry = {"mediaType": mediatypes.OCI_INDEX, "digest": str(inner.digest), "size": len(inner.body)}
    entry["platform"] = {"os": "linux", "architecture": "amd64"}
    outer = {"schemaVersion": 2, "manifests": [entry]}
    plain.put_manifest("v1", RawManifest(mediatypes.OCI_INDEX, json.dumps(outer).encode()))
    refuse(plain, store, "image.nested-index", DecodeError)


def test_repeated_layers_are_listed_once_where_they_are_topmost(store: str) -> None:
    one, two = make_tar([member("f", content=b"1")]), make_tar([member("f", content=b"2")])
    memory = MemoryStore()
    put_image(memory, "v1", [one, two, one])
    image = take(memory, store)
    assert len(image.layers) == 2
    assert content(image, "f") == b"1"


@pytest.mark.parametrize("kind", ["gzip", "plain", "zstd", "members"])
def test_compressions(kind: str, store: str) -> None:
    compress: Callable[[bytes], bytes] | None = {
        "gzip": gzip.compress,
        "plain": None,
        "members": lambda tar: gzip.compress(tar[:700]) + gzip.compress(tar[700:]),
    }.get(kind)
    layer_type = ""
    if kind == "zstd":
        compress = pytest.importorskip("zstandard").compress
        layer_type = f"{mediatypes.OCI_LAYER}+zstd"
    memory, encrypted = MemoryStore(), MemoryStore()
    put_image(memory, "v1", sample_layers(), compress=compress, layer_type=layer_type)
    encrypt(memory, "v1", encrypted, "v1", Recipient(KEK, "k"), rng=os.urandom)
    assert content(take(encrypted, store, unwrapper()), "run.sh") == b"#!/bin/sh\n"


# Each way to lie in the manifest, with the check that notices.


def layer(number: int, **fields: object) -> Callable[[Document], None]:
    return lambda document: document["layers"][number].update(fields)


OTHER = str(Digest.of(b"other"))
LIES: dict[str, tuple[Callable[[Document], None], str, type[SealpodError]]] = {
    "config size": (
        lambda d: d["config"].update(size=d["config"]["size"] + 1),
        "image.config-size",
        VerificationError,
    ),
    "config too small": (lambda d: d["config"].update(size=5), "image.config-size", VerificationError),
    "config type": (lambda d: d["config"].update(mediaType="text/plain"), "image.media-type", DecodeError),
    "layer gone": (lambda d: d["layers"].pop(), "image.layer-count", VerificationError),
    "layers swapped": (lambda d: d["layers"].reverse(), "image.diff-id", VerificationError),
    "layer size": (
        lambda d: layer(0, size=d["layers"][0]["size"] + 1)(d),
        "image.blob-size",
        VerificationError,
    ),
    "layer too small": (layer(0, size=5), "image.blob-size", VerificationError),
    "layer type": (layer(0, mediaType="text/plain"), "image.media-type", DecodeError),
    "not compressed": (layer(0, mediaType=mediatypes.OCI_LAYER), "image.diff-id", VerificationError),
    "missing blob": (layer(0, digest=OTHER), "image.blob-not-found", NotFoundError),
}


@pytest.mark.parametrize("name", LIES)
def test_lies_in_the_manifest(name: str, plain: MemoryStore, store: str) -> None:
    change, code, kind = LIES[name]
    edit(plain, change)
    refuse(plain, store, code, kind)


def test_another_config_of_the_same_size(plain: MemoryStore, store: str) -> None:
    digest = json.loads(plain.manifests["v1"].body)["config"]["digest"]
    plain.blobs[digest] = plain.blobs[digest].replace(b"/bin/true", b"/bin/evil")
    refuse(plain, store, "image.config-digest", VerificationError)


def test_another_platform(store: str) -> None:
    memory = MemoryStore()
    put_image(memory, "v1", sample_layers(), architecture="arm64")
    refuse(memory, store, "image.platform", DecodeError)


def test_missing_image(plain: MemoryStore, store: str) -> None:
    with pytest.raises(NotFoundError):
        take(plain, store, reference=ImageReference.parse("localhost/app:v2"))


def test_the_store_breaks_off(sealed: MemoryStore, store: str) -> None:
    for after in (0, 400, 700):
        failing = FailingStore(sealed.manifests, sealed.blobs, after=after)
        with pytest.raises(UnavailableError):
            take(failing, store, unwrapper())
        assert os.listdir(store) == []


# Keys.


def test_no_key_broker(sealed: MemoryStore, store: str) -> None:
    error = refuse(sealed, store, "image.no-key", RefusedError)
    assert "--kbc" in error.remedy
    assert error.message.startswith("layer 1: ")


@pytest.mark.parametrize("algorithm", ["aes_256_ctr", "A256GCM", "A256CTR"])
def test_a_wrong_key(algorithm: str, plain: MemoryStore, store: str) -> None:
    memory = MemoryStore()
    encrypt(plain, "v1", memory, "v1", Recipient(KEK, "key_id1", algorithm), rng=os.urandom)
    memory.blob = lambda descriptor: (
        pytest.fail("a layer was fetched")
        if descriptor.media_type.endswith("encrypted")
        else MemoryStore.blob(memory, descriptor)
    )  # type: ignore[method-assign]
    error = refuse(memory, store, "image.wrong-key", VerificationError, unwrapper(SecretBytes(bytes(32))))
    assert "the key filed under 'key_id1' is wrong" in error.message


def test_a_broker_that_returns_noise(sealed: MemoryStore, store: str) -> None:
    refuse(sealed, store, "image.wrong-key", VerificationError, lambda _: SecretBytes(os.urandom(150)))


def test_the_brokers_own_error_passes(sealed: MemoryStore, store: str) -> None:
    def unreachable(packet: AnnotationPacket) -> SecretBytes:
        raise UnavailableError(f"no broker for {packet.kid}", code="kbc.unreachable")

    error = refuse(sealed, store, "kbc.unreachable", UnavailableError, unreachable)
    assert error.message == "layer 1: no broker for key_id1"


def test_several_recipients(sealed: MemoryStore, store: str) -> None:
    def stranger(document: Document) -> None:
        for entry in document["layers"]:
            packets = entry["annotations"][enc.ATTESTATION_AGENT]
            other = enc.encryption(
                [AnnotationPacket("stranger", b"x" * 99, bytes(16), "aes_256_ctr").encode()], b""
            )
            entry["annotations"][enc.ATTESTATION_AGENT] = f"{other[enc.ATTESTATION_AGENT]},{packets}"

    edit(sealed, stranger)

    def knows_one(packet: AnnotationPacket) -> SecretBytes:
        if packet.kid == "stranger":
            raise NotFoundError("unknown key id stranger", code="kbc.unknown-key")
        return unwrapper()(packet)

    assert len(take(sealed, store, knows_one).layers) == 2

    def knows_none(packet: AnnotationPacket) -> SecretBytes:
        if packet.kid == "stranger":
            raise NotFoundError("unknown key id stranger", code="kbc.unknown-key")
        raise UnavailableError("the broker is down", code="kbc.unreachable")

    with pytest.raises(
        UnavailableError, match=r"the broker is down \(other recipients: unknown key id stranger\)"
    ):
        take(sealed, store, knows_none)


def test_any_provider_name_is_read(sealed: MemoryStore, store: str) -> None:
    def rename(document: Document) -> None:
        for entry in document["layers"]:
            entry["annotations"][f"{enc.PROVIDER_PREFIX}other"] = entry["annotations"].pop(
                enc.ATTESTATION_AGENT
            )

    edit(sealed, rename)
    assert len(take(sealed, store, unwrapper()).layers) == 2


def test_only_foreign_schemes(sealed: MemoryStore, store: str) -> None:
    def rename(document: Document) -> None:
        for entry in document["layers"]:
            entry["annotations"][f"{enc.KEYS_PREFIX}jwe"] = entry["annotations"].pop(enc.ATTESTATION_AGENT)

    edit(sealed, rename)
    assert "jwe" in refuse(sealed, store, "image.no-packet", NotFoundError, unwrapper()).message


def test_annotations_on_a_plain_type(sealed: MemoryStore, store: str) -> None:
    edit(sealed, layer(1, mediaType=f"{mediatypes.OCI_LAYER}+gzip"))
    refuse(sealed, store, "image.media-type", DecodeError, unwrapper())


def test_the_annotations_of_another_layer(sealed: MemoryStore, store: str) -> None:
    edit(sealed, lambda d: d["layers"][0].update(annotations=d["layers"][1]["annotations"]))
    refuse(sealed, store, "image.hmac", VerificationError, unwrapper())


def test_nothing_is_quoted_of_a_layer_before_its_hmac_has_spoken(store: str) -> None:
    """Who knows some of the plaintext can change it, to have the rest understood as a path, for example."""
    plain, sealed = MemoryStore(), MemoryStore()
    odd = member("secret", pax_headers={"SCHILY.xattr.nosuch.kind": "1"})
    put_image(plain, "v1", [make_tar([odd, member("more", content=os.urandom(1 << 16))])])
    encrypt(plain, "v1", sealed, "v1", Recipient(KEK, "key_id1"), rng=os.urandom)
    assert "secret" in refuse(sealed, store, "image.unpack-xattr", OperationError, unwrapper()).message
    entry = layers_of(sealed)[0]
    damaged = sealed.blobs[entry["digest"]][:-1] + b"\0"
    sealed.blobs[str(Digest.of(damaged))] = damaged
    edit(sealed, layer(0, digest=str(Digest.of(damaged))))
    assert "secret" not in refuse(sealed, store, "image.hmac", VerificationError, unwrapper()).message


def test_a_plain_layer_under_the_encrypted_image(plain: MemoryStore, sealed: MemoryStore, store: str) -> None:
    """A layer swapped for a plain one has another diff_id, unless the configuration is swapped too."""
    put_image(plain, "evil", [make_tar([member("etc/motd", content=b"evil")])])
    evil = json.loads(plain.manifests["evil"].body)["layers"][0]
    sealed.blobs |= plain.blobs
    edit(sealed, lambda d: d["layers"].__setitem__(0, evil))
    refuse(sealed, store, "image.diff-id", VerificationError, unwrapper())


def test_where_only_encrypted_images_run_no_plain_layer_gets_on_top(
    plain: MemoryStore, sealed: MemoryStore, store: str
) -> None:
    """The host's own layer over the owner's: digests fit, since the host writes the configuration as well."""
    put_image(plain, "evil", [make_tar([member("steal", content=b"evil")])])
    mixed = MemoryStore()
    mixed.blobs = {**plain.blobs, **sealed.blobs}
    evil = json.loads(plain.manifests["evil"].body)
    document = json.loads(sealed.manifests["v1"].body)
    document["layers"].append(evil["layers"][0])
    config = json.loads(sealed.blobs[document["config"]["digest"]])
    config["rootfs"]["diff_ids"] += json.loads(plain.blobs[evil["config"]["digest"]])["rootfs"]["diff_ids"]
    data = json.dumps(config).encode()
    mixed.blobs[str(Digest.of(data))] = data
    document["config"] |= {"digest": str(Digest.of(data)), "size": len(data)}
    mixed.put_manifest("v1", RawManifest("", json.dumps(document).encode()))
    assert len(take(mixed, store, unwrapper()).layers) == 3  # as anywhere: encryption is no signature

    def asked(_: AnnotationPacket) -> SecretBytes:
        pytest.fail("a key was asked for")

    for source in (mixed, plain):
        with pytest.raises(RefusedError, match="is not encrypted") as caught:
            pull(source, TAG, asked, store, encrypted_only=True)
        assert caught.value.code == "image.plain-layer"
    assert len(pull(sealed, TAG, unwrapper(), store, encrypted_only=True).layers) == 2


def test_an_image_without_layers_is_no_encrypted_one(store: str) -> None:
    nothing = MemoryStore()
    put_image(nothing, "v1", [])
    with pytest.raises(RefusedError, match="has no layers"):
        pull(nothing, TAG, unwrapper(), store, encrypted_only=True)
    assert os.listdir(store) == []


# Damage.


def layers_of(source: MemoryStore) -> list[Document]:
    layers: list[Document] = json.loads(source.manifests["v1"].body)["layers"]
    return layers


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    number=st.integers(0, 1),
    position=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
    length=st.booleans(),
)
def test_damaged_blobs(
    number: int, position: float, bit: int, length: bool, sealed: MemoryStore, store: str
) -> None:
    """Bit flips and truncations of the stored ciphertext: the blob's digest or size speaks."""
    digest = layers_of(sealed)[number]["digest"]
    original = sealed.blobs[digest]
    at = int(position * len(original))
    damaged = bytearray(original[:at] if length else original)
    if not length:
        damaged[at] ^= 1 << bit
    sealed.blobs[digest] = bytes(damaged)
    try:
        refuse(
            sealed,
            store,
            "image.blob-size" if length else "image.blob-digest",
            VerificationError,
            unwrapper(),
        )
    finally:
        sealed.blobs[digest] = original


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    number=st.integers(0, 1),
    position=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
    length=st.booleans(),
)
def test_damage_with_a_fitting_manifest(
    number: int, position: float, bit: int, length: bool, sealed: MemoryStore, store: str
) -> None:
    """The registry's owner can correct digest and size in the manifest, but not the HMAC."""
    entry = layers_of(sealed)[number]
    original = sealed.blobs[entry["digest"]]
    at = int(position * len(original))
    damaged = bytearray(original[:at] if length else original)
    if not length:
        damaged[at] ^= 1 << bit
    forged = MemoryStore(dict(sealed.manifests), dict(sealed.blobs))
    forged.blobs[str(Digest.of(damaged))] = bytes(damaged)
    edit(forged, layer(number, digest=str(Digest.of(damaged)), size=len(damaged)))
    refuse(forged, store, "image.hmac", VerificationError, unwrapper())


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(bit=st.integers(0, 8 * 120 - 1), gcm=st.booleans())
def test_damaged_packets(bit: int, gcm: bool, plain: MemoryStore, store: str) -> None:
    memory = MemoryStore()
    encrypt(
        plain, "v1", memory, "v1", Recipient(KEK, "k", "A256GCM" if gcm else "aes_256_ctr"), rng=os.urandom
    )
    old = AnnotationPacket.decode(enc.packets(layers_of(memory)[0]["annotations"])[0])
    data = bytearray(old.wrapped_data)
    data[bit // 8] ^= 1 << bit % 8
    packet = AnnotationPacket(old.kid, bytes(data), old.iv, old.wrap_type).encode()
    public = enc.public_options(layers_of(memory)[0]["annotations"])
    edit(memory, layer(0, annotations=enc.encryption([packet], public)))
    with pytest.raises(SealpodError):
        take(memory, store, unwrapper())
    assert os.listdir(store) == []


def test_an_escaping_layer_leaves_nothing(store: str) -> None:
    memory, encrypted = MemoryStore(), MemoryStore()
    put_image(memory, "v1", [make_tar([member("ok", content=b"x"), member("../x", content=b"x")])])
    encrypt(memory, "v1", encrypted, "v1", Recipient(KEK, "k"), rng=os.urandom)
    refuse(encrypted, store, "image.tar-escape", DecodeError, unwrapper())


def test_data_after_the_archive_counts(store: str) -> None:
    """The diff_id covers the padding after the archive's end."""
    tar = make_tar([member("f", content=b"x")])
    memory = MemoryStore()
    put_image(memory, "v1", [tar], compress=lambda data: gzip.compress(data + bytes(512)))
    refuse(memory, store, "image.diff-id", VerificationError)


def test_interrupt_leaves_nothing(sealed: MemoryStore, store: str) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(sealed, TAG, unwrapper(), store, progress=interrupt)
    assert os.listdir(store) == []


def test_progress_reaches_the_end(sealed: MemoryStore, store: str) -> None:
    seen: list[tuple[str, int, int]] = []
    pull(sealed, TAG, unwrapper(), store, progress=lambda *step: seen.append(step))
    assert [step for step in seen if step[1] == step[2]]
    assert {step[0] for step in seen} == {"layer 1 of 2", "layer 2 of 2"}


def test_memory_is_flat_in_layer_size(store: str) -> None:
    import tracemalloc

    memory, encrypted = MemoryStore(), MemoryStore()
    put_image(memory, "v1", [make_tar([member("big", content=os.urandom(24 << 20))])], compress=None)
    encrypt(memory, "v1", encrypted, "v1", Recipient(KEK, "k"), rng=os.urandom)
    tracemalloc.start()
    try:
        take(encrypted, store, unwrapper())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The store hands out its own 24 MiB blob once more; nothing else may grow with it.
    assert peak < (24 << 20) + (6 << 20)
