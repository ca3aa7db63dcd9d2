# SPDX-License-Identifier: Apache-2.0
"""skopeo reads our layouts and copies encrypted images unchanged; we read what it writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from imagekit import KEK, put_image, sample_layers, unwrapper

from sealpod.errors import NotFoundError
from sealpod.image.encrypt import Recipient, encrypt
from sealpod.image.pull import pull, resolve
from sealpod.oci import mediatypes
from sealpod.oci.descriptor import Platform
from sealpod.oci.reference import ImageReference
from sealpod.registry.layout import LayoutSink, LayoutSource

pytestmark = pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
REFERENCE = ImageReference.parse("localhost/app:v1")


def skopeo(*arguments: str) -> bytes:
    done = subprocess.run(["skopeo", "--insecure-policy", *arguments], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.fixture
def layouts(tmp_path: Path) -> tuple[str, str]:
    plain, sealed = str(tmp_path / "plain"), str(tmp_path / "sealed")
    put_image(LayoutSink(plain), "v1", sample_layers())
    encrypt(LayoutSource(plain), "v1", LayoutSink(sealed), "v1", Recipient(KEK, "key_id1"), rng=os.urandom)
    return plain, sealed


def blobs(layout: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(layout, "blobs/sha256").iterdir()}


def test_skopeo_reads_our_layout(layouts: tuple[str, str]) -> None:
    for layout in layouts:
        raw = skopeo("inspect", "--raw", f"oci:{layout}:v1")
        assert raw == LayoutSource(layout).manifest("v1").body
        assert json.loads(skopeo("inspect", f"oci:{layout}:v1"))["Architecture"] == "amd64"


@pytest.mark.skipif(os.geteuid() != 0, reason="owners need root")
def test_an_encrypted_image_passes_through_skopeo(layouts: tuple[str, str], tmp_path: Path) -> None:
    copied = str(tmp_path / "copied")
    skopeo("copy", f"oci:{layouts[1]}:v1", f"oci:{copied}:v2")
    before = resolve(LayoutSource(layouts[1]), "v1", Platform())
    after = resolve(LayoutSource(copied), "v2", Platform())
    assert after.manifest == before.manifest
    for layer in before.manifest.layers:
        assert blobs(copied)[layer.digest.hex] == blobs(layouts[1])[layer.digest.hex]
    reference = ImageReference.parse("localhost/app:v2")
    assert pull(LayoutSource(copied), reference, unwrapper(), str(tmp_path / "store")).layers


def test_a_docker_image_of_skopeo_is_encrypted(layouts: tuple[str, str], tmp_path: Path) -> None:
    """``dir:`` holds Docker v2s2; read through its files, as a registry would serve them."""
    directory = tmp_path / "docker"
    skopeo("copy", "--format", "v2s2", f"oci:{layouts[0]}:v1", f"dir:{directory}")
    body = (directory / "manifest.json").read_bytes()
    assert json.loads(body)["mediaType"] == mediatypes.DOCKER_MANIFEST
    from imagekit import MemoryStore

    from sealpod.image.ports import RawManifest

    memory = MemoryStore()
    for path in directory.iterdir():
        memory.blobs[f"sha256:{path.name}"] = path.read_bytes()
    memory.put_manifest("v1", RawManifest(mediatypes.DOCKER_MANIFEST, body))
    result = encrypt(memory, "v1", memory, "enc", Recipient(KEK, "key_id1"), rng=os.urandom)
    assert result.manifest.media_type == mediatypes.OCI_MANIFEST


def test_a_jwe_image_of_skopeo_is_refused_with_its_scheme(layouts: tuple[str, str], tmp_path: Path) -> None:
    key, public, target = (str(tmp_path / name) for name in ("key.pem", "public.pem", "jwe"))
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    subprocess.run(["openssl", "rsa", "-in", key, "-pubout", "-out", public], check=True, capture_output=True)
    skopeo("copy", "--encryption-key", f"jwe:{public}", f"oci:{layouts[0]}:v1", f"oci:{target}:v1")
    with pytest.raises(NotFoundError, match="other schemes: jwe") as caught:
        pull(LayoutSource(target), REFERENCE, unwrapper(), str(tmp_path / "store"))
    assert caught.value.code == "image.no-packet"


def test_our_cipher_opens_a_layer_skopeo_encrypted(layouts: tuple[str, str], tmp_path: Path) -> None:
    """The wrapping is skopeo's (JWE, RSA-OAEP); cipher, HMAC and annotations are read by ours."""
    from base64 import urlsafe_b64decode
    from contextlib import closing

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from sealpod.image.layer import LayerKey, open_compressed
    from sealpod.image.verify import read_all
    from sealpod.ocicrypt import annotations as enc
    from sealpod.ocicrypt.options import PrivateOptions, PublicOptions
    from sealpod.secret import SecretBytes

    key = rsa.generate_private_key(65537, 2048)
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "public.pem").write_bytes(key.public_key().public_bytes(*form))
    target = str(tmp_path / "jwe")
    skopeo(
        "copy", "--encryption-key", f"jwe:{tmp_path}/public.pem", f"oci:{layouts[0]}:v1", f"oci:{target}:v1"
    )
    source = LayoutSource(target)
    plain = resolve(LayoutSource(layouts[0]), "v1", Platform())
    for before, layer in zip(
        plain.manifest.layers, resolve(source, "v1", Platform()).manifest.layers, strict=True
    ):
        packet = json.loads(enc.decode_base64(layer.annotations[f"{enc.KEYS_PREFIX}jwe"], "jwe"))
        part = {
            name: urlsafe_b64decode(value + "==") for name, value in packet.items() if isinstance(value, str)
        }
        oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
        content_key = key.decrypt(part["encrypted_key"], oaep)
        sealed = part["ciphertext"] + part["tag"]
        options = AESGCM(content_key).decrypt(part["iv"], sealed, packet["protected"].encode())
        private = PrivateOptions.decode(SecretBytes(options))
        assert private.digest == str(before.digest)
        opened = LayerKey(PublicOptions.decode(enc.public_options(layer.annotations)), private)
        with closing(open_compressed(source, layer, opened)) as stream:
            assert read_all(stream, 1 << 20) == blobs(layouts[0])[before.digest.hex]
