# SPDX-License-Identifier: Apache-2.0
"""A registry's owner who changes key packets and reads what the guest says learns no layer key from it.

A packet of ``aes_256_ctr`` is not authenticated: its plaintext can be changed bit by bit, and where it is
known, as its JSON is, to anything. One of ``A256GCM`` can be had opened as ``aes_256_ctr``.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile

import pytest
from imagekit import KEK, MemoryStore, put_image, sample_layers, unwrapper

from sealpod.errors import SealpodError
from sealpod.image.encrypt import Recipient, encrypt
from sealpod.image.ports import RawManifest
from sealpod.image.pull import pull
from sealpod.oci.digest import Digest
from sealpod.oci.reference import ImageReference
from sealpod.ocicrypt import annotations as enc
from sealpod.ocicrypt import keywrap
from sealpod.ocicrypt.options import PrivateOptions
from sealpod.ocicrypt.packet import A256GCM, AES_256_CTR, AnnotationPacket

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners need root")

KEY = slice(11, 55)
"""Where the layer's key stands in ``{"symkey":"...","digest":"sha256:...",...}``, in base64."""
DIGEST = slice(67, 138)


class Registry:
    """An image whose registry the host owns."""

    def __init__(self, algorithm: str) -> None:
        plain = MemoryStore()
        put_image(plain, "v1", sample_layers())
        self._store = MemoryStore()
        encrypt(plain, "v1", self._store, "v1", Recipient(KEK, "k", algorithm), rng=os.urandom)
        self._manifest = json.loads(self._store.manifests["v1"].body)
        (data,) = enc.packets(self._manifest["layers"][0]["annotations"])
        self.packet = AnnotationPacket.decode(data)
        if algorithm == A256GCM:  # the first block of the text is the second of the counter; no tag
            iv = self.packet.iv + (2).to_bytes(4, "big")
            self.packet = AnnotationPacket(
                "k", self.packet.wrapped_data[: -keywrap.TAG_SIZE], iv, AES_256_CTR
            )
        secret = PrivateOptions.decode(keywrap.unwrap(KEK, self.packet))
        self.key = base64.b64encode(secret.symkey.reveal()).decode()
        self.digest = secret.digest
        """Of the layer before encryption: the host knows it of a published layer."""

    def answer(self, change: bytes, at: int) -> SealpodError | None:
        """What the guest says to a packet with ``change`` added (exclusive or)."""
        data = bytearray(self.packet.wrapped_data)
        for index, byte in enumerate(change, at):
            data[index] ^= byte
        forged = AnnotationPacket("k", bytes(data), self.packet.iv, self.packet.wrap_type).encode()
        annotations = self._manifest["layers"][0]["annotations"]
        annotations[enc.ATTESTATION_AGENT] = base64.b64encode(forged).decode()
        self._store.put_manifest("v1", RawManifest("", json.dumps(self._manifest).encode()))
        with tempfile.TemporaryDirectory(dir="/dev/shm") as store:
            try:
                pull(self._store, ImageReference.parse("localhost/app:v1"), unwrapper(), store)
            except SealpodError as error:
                return error
        return None

    def rewrite(self, old: bytes, new: bytes, at: int) -> SealpodError | None:
        """What the guest says where text the host knows was replaced by text it likes."""
        return self.answer(bytes(a ^ b for a, b in zip(old, new, strict=True)), at)


@pytest.fixture(params=[AES_256_CTR, A256GCM])
def registry(request: pytest.FixtureRequest) -> Registry:
    return Registry(request.param)


def test_an_unchanged_packet_opens(registry: Registry) -> None:
    assert registry.answer(b"", 0) is None


def test_the_key_in_the_place_of_the_digest_is_not_quoted(registry: Registry) -> None:
    """The two names change places; the key is then no digest, which an error would like to show."""
    old = b'{"symkey":"' + b"?" * 44 + b'","digest":"' + registry.digest.encode()
    new = b'{"digest":"' + b"?" * 44 + b'","symkey":"' + b"A" * 43 + b'=","x":"'.ljust(28, b"y")
    error = registry.rewrite(old, new, 0)
    assert error is not None
    assert registry.key not in error.one_line()


def test_the_key_as_a_name_is_not_quoted(registry: Registry) -> None:
    old = b'{"symkey":"' + b"?" * 44 + b'","digest":"' + registry.digest.encode()
    # The key stays where it is, behind eleven bytes: one shorter member before it makes room for a brace.
    new = b'{"dige":{"?' + b"?" * 44 + b'":"*"},"symkey":"'.ljust(83, b"A")
    error = registry.rewrite(old, new, 0)
    assert error is not None
    assert registry.key[:-1] not in error.one_line()


def test_another_digest_does_not_bring_the_real_one_to_light(registry: Registry) -> None:
    error = registry.answer(b"\1", DIGEST.stop - 1)
    assert error is not None
    assert error.code in ("image.layer-digest", "image.hmac")
    assert registry.digest.removeprefix("sha256:")[:60] not in error.one_line()


@pytest.mark.parametrize("at", [KEY.start, KEY.start + 17, KEY.stop - 2])
def test_no_character_of_the_key_can_be_asked_for(registry: Registry, at: int) -> None:
    """One outcome for every change, whether it makes a character base64 does not have, a quote, or none."""
    said = {str(registry.answer(bytes([change]), at)) for change in range(1, 128)}
    assert len(said) == 1
    assert "image.wrong-key" not in said


def test_no_character_of_the_key_can_be_asked_for_elsewhere(registry: Registry) -> None:
    """The counter moved on, so that later bytes of the key stream meet the place where the text begins."""
    packet = registry.packet
    number = int.from_bytes(packet.iv, "big")
    for block in range(1, 12):
        iv = ((number + block) % (1 << 128)).to_bytes(16, "big")
        registry.packet = AnnotationPacket("k", packet.wrapped_data, iv, packet.wrap_type)
        said = {getattr(registry.answer(bytes([change]), 0), "code", "") for change in range(0, 256, 5)}
        assert said == {"image.wrong-key"}


def opened(packet: AnnotationPacket) -> str:
    """The options in a packet, or the code of the refusal."""
    try:
        return keywrap.unwrap(KEK, packet).reveal().decode()
    except SealpodError as error:
        return error.code


def test_a_packet_of_another_form_is_no_packet() -> None:
    """What nobody writes is taken from nobody: the more forms there are, the more can be forged."""
    private = PrivateOptions.decode(keywrap.unwrap(KEK, Registry(AES_256_CTR).packet)).encode().reveal()
    document = json.loads(private)
    forms = [
        json.dumps(document).encode(),
        json.dumps(document | {"more": 1}, separators=(",", ":")).encode(),
        json.dumps({name: document[name] for name in reversed(document)}, separators=(",", ":")).encode(),
        private + b"\n",
    ]
    for form in forms:
        packet = AnnotationPacket("k", keywrap._ctr(KEK, bytes(16), form), bytes(16), AES_256_CTR)
        assert document["symkey"] not in opened(packet)


def test_what_is_given_instead_is_the_same_each_time() -> None:
    packet = Registry(AES_256_CTR).packet
    changed = bytearray(packet.wrapped_data)
    changed[KEY.start] ^= 0x80
    packet = AnnotationPacket("k", bytes(changed), packet.iv, packet.wrap_type)
    first, second = keywrap.unwrap(KEK, packet), keywrap.unwrap(KEK, packet)
    assert first.reveal() == second.reveal()
    assert Digest.parse(PrivateOptions.decode(first).digest)
