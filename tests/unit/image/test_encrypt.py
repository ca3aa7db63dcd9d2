# SPDX-License-Identifier: Apache-2.0
"""Encrypting: what the result holds, what is refused, what is verified before the tag appears."""

from __future__ import annotations

import base64
import json
import os

import pytest
from imagekit import GZIP_LAYER, KEK, FailingStore, MemoryStore, Pieces, put_image, sample_layers

from sealpod.errors import ConflictError, DecodeError, UnavailableError, UsageError, VerificationError
from sealpod.image.encrypt import Recipient, encrypt
from sealpod.image.ports import ByteStream
from sealpod.image.transfer import copy
from sealpod.oci import mediatypes
from sealpod.oci.descriptor import Descriptor
from sealpod.oci.digest import Digest
from sealpod.ocicrypt import annotations as enc
from sealpod.ocicrypt import keywrap
from sealpod.ocicrypt.options import PrivateOptions, PublicOptions
from sealpod.ocicrypt.packet import AnnotationPacket
from sealpod.secret import SecretBytes

RECIPIENT = Recipient(KEK, "key_id1")


@pytest.fixture
def plain() -> MemoryStore:
    memory = MemoryStore()
    put_image(memory, "v1", sample_layers())
    return memory


def test_what_changes_and_what_does_not(plain: MemoryStore) -> None:
    sink = MemoryStore()
    result = encrypt(plain, "v1", sink, "enc", RECIPIENT, rng=os.urandom)
    before, after = (json.loads(store.manifests[tag].body) for store, tag in ((plain, "v1"), (sink, "enc")))
    assert sink.manifests["enc"].digest == result.manifest_digest
    assert after["mediaType"] == mediatypes.OCI_MANIFEST
    assert after["config"] == before["config"]
    assert sink.blobs[after["config"]["digest"]] == plain.blobs[after["config"]["digest"]]
    for old, new in zip(before["layers"], after["layers"], strict=True):
        assert new["mediaType"] == f"{GZIP_LAYER}+encrypted"
        assert (new["size"], new["digest"] != old["digest"]) == (old["size"], True)
        assert set(new["annotations"]) == {enc.ATTESTATION_AGENT, enc.PUBLIC_OPTIONS}
        assert old["digest"] not in sink.blobs


def test_the_packet_is_what_attestation_agent_reads(plain: MemoryStore) -> None:
    sink = MemoryStore()
    encrypt(plain, "v1", sink, "enc", RECIPIENT, rng=os.urandom)
    before, after = (json.loads(store.manifests[tag].body) for store, tag in ((plain, "v1"), (sink, "enc")))
    for old, new in zip(before["layers"], after["layers"], strict=True):
        packet = json.loads(base64.b64decode(new["annotations"][enc.ATTESTATION_AGENT]))
        assert list(packet) == ["kid", "wrapped_data", "iv", "wrap_type"]
        assert (packet["kid"], packet["wrap_type"]) == ("key_id1", "aes_256_ctr")
        assert len(base64.b64decode(packet["iv"])) == 16
        public = json.loads(base64.b64decode(new["annotations"][enc.PUBLIC_OPTIONS]))
        assert list(public) == ["cipher", "hmac", "cipheroptions"]
        decoded = AnnotationPacket.decode(json.dumps(packet).encode())
        private = PrivateOptions.decode(keywrap.unwrap(KEK, decoded))
        assert private.digest == old["digest"]


def test_nothing_repeats(plain: MemoryStore) -> None:
    one, two = MemoryStore(), MemoryStore()
    encrypt(plain, "v1", one, "e", RECIPIENT, rng=os.urandom)
    encrypt(plain, "v1", two, "e", RECIPIENT, rng=os.urandom)
    assert one.manifests["e"].digest != two.manifests["e"].digest
    assert len(set(one.blobs) & set(two.blobs)) == 1  # the configuration


def test_keys_and_nonces_come_from_the_argument(plain: MemoryStore) -> None:
    one, two = MemoryStore(), MemoryStore()
    encrypt(plain, "v1", one, "e", RECIPIENT, rng=lambda size: b"\x01" * size)
    encrypt(plain, "v1", two, "e", RECIPIENT, rng=lambda size: b"\x01" * size)
    assert one.manifests["e"] == two.manifests["e"]


def test_docker_images_become_oci() -> None:
    plain, sink = MemoryStore(), MemoryStore()
    put_image(
        plain,
        "v1",
        sample_layers(),
        layer_type="application/vnd.docker.image.rootfs.diff.tar.gzip",
        manifest_type=mediatypes.DOCKER_MANIFEST,
        config_type=mediatypes.DOCKER_CONFIG,
    )
    result = encrypt(plain, "v1", sink, "e", RECIPIENT, rng=os.urandom)
    assert result.manifest.media_type == mediatypes.OCI_MANIFEST
    assert result.manifest.config.media_type == mediatypes.OCI_CONFIG
    assert [layer.media_type for layer in result.manifest.layers] == [f"{GZIP_LAYER}+encrypted"] * 2


def test_encrypting_twice_is_refused(plain: MemoryStore) -> None:
    sink, again = MemoryStore(), MemoryStore()
    encrypt(plain, "v1", sink, "e", RECIPIENT, rng=os.urandom)
    with pytest.raises(ConflictError) as caught:
        encrypt(sink, "e", again, "e", RECIPIENT, rng=os.urandom)
    assert caught.value.code == "image.already-encrypted"
    assert not again.blobs


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_the_size_of_the_key(size: int, plain: MemoryStore) -> None:
    sink = MemoryStore()
    with pytest.raises(UsageError, match="need 32") as caught:
        encrypt(plain, "v1", sink, "e", Recipient(SecretBytes(bytes(size)), "k"), rng=os.urandom)
    assert caught.value.code == "image.key-size"
    assert not sink.blobs


@pytest.mark.parametrize("key_id", ["", "a\nb", "kbs:///too/short"])
def test_a_key_id_no_guest_could_use(key_id: str, plain: MemoryStore) -> None:
    with pytest.raises(DecodeError):
        encrypt(plain, "v1", MemoryStore(), "e", Recipient(KEK, key_id), rng=os.urandom)


def test_a_damaged_source_is_not_encrypted(plain: MemoryStore) -> None:
    digest = json.loads(plain.manifests["v1"].body)["layers"][1]["digest"]
    plain.blobs[digest] = plain.blobs[digest][:-1] + b"\xff"
    sink = MemoryStore()
    with pytest.raises(VerificationError) as caught:
        encrypt(plain, "v1", sink, "e", RECIPIENT, rng=os.urandom)
    assert caught.value.code == "image.blob-digest"
    assert "e" not in sink.manifests


class _Lossy(MemoryStore):
    """Keeps a bit wrong of every blob it is given, and says nothing."""

    def put_blob(self, stream: ByteStream) -> tuple[Digest, int]:
        digest, size = super().put_blob(stream)
        self.blobs[str(digest)] = self.blobs[str(digest)][:-1] + b"\xff"
        return digest, size


class _Transparent(MemoryStore):
    """Hands out the blobs of another store: a registry that serves the plain layers."""

    def blob(self, descriptor: Descriptor) -> ByteStream:
        return Pieces(b"plain")


@pytest.mark.parametrize("sink", [_Lossy(), _Transparent()])
def test_the_tag_appears_only_if_the_result_reads_back(sink: MemoryStore, plain: MemoryStore) -> None:
    with pytest.raises(VerificationError):
        encrypt(plain, "v1", sink, "e", RECIPIENT, rng=os.urandom)
    assert sink.manifests == {}


def test_a_sink_that_fails(plain: MemoryStore) -> None:
    sink = FailingStore()
    with pytest.raises(UnavailableError):
        encrypt(plain, "v1", sink, "e", RECIPIENT, rng=os.urandom)
    assert sink.manifests == {}


def test_progress(plain: MemoryStore) -> None:
    seen: set[str] = set()
    encrypt(
        plain, "v1", MemoryStore(), "e", RECIPIENT, rng=os.urandom, progress=lambda what, *_: seen.add(what)
    )
    assert seen == {f"{verb} layer {n} of 2" for verb in ("encrypting", "verifying") for n in (1, 2)}


def test_copy_is_byte_for_byte(plain: MemoryStore) -> None:
    sink, copied = MemoryStore(), MemoryStore()
    encrypt(plain, "v1", sink, "e", RECIPIENT, rng=os.urandom)
    digest = copy(sink, "e", copied, "c")
    assert copied.manifests["c"].body == sink.manifests["e"].body
    assert digest == sink.manifests["e"].digest
    assert copied.blobs == sink.blobs


def test_copy_refuses_damage(plain: MemoryStore) -> None:
    digest = json.loads(plain.manifests["v1"].body)["layers"][0]["digest"]
    plain.blobs[digest] += b"x"
    copied = MemoryStore()
    with pytest.raises(VerificationError):
        copy(plain, "v1", copied, "c")
    assert not copied.manifests


def test_public_options_hold_the_hmac_of_the_blob(plain: MemoryStore) -> None:
    import hmac

    sink = MemoryStore()
    result = encrypt(plain, "v1", sink, "e", RECIPIENT, rng=os.urandom)
    for layer in result.manifest.layers:
        packet = AnnotationPacket.decode(enc.packets(layer.annotations)[0])
        key = PrivateOptions.decode(keywrap.unwrap(KEK, packet)).symkey.reveal()
        public = PublicOptions.decode(enc.public_options(layer.annotations))
        assert public.hmac == hmac.digest(key, sink.blobs[str(layer.digest)], "sha256")
