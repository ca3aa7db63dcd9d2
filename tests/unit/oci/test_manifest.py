# SPDX-License-Identifier: Apache-2.0
"""Manifests, indexes and configurations."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError, NotFoundError
from sealpod.oci import mediatypes
from sealpod.oci.config import ImageConfig
from sealpod.oci.descriptor import Platform
from sealpod.oci.digest import Digest
from sealpod.oci.manifest import MAX_MANIFEST, Index, Manifest, decode_document

EMPTY = str(Digest.of(b""))


def descriptor(media_type: str = f"{mediatypes.OCI_LAYER}+gzip", **fields: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": EMPTY, "size": 3, **fields}


def manifest(**fields: Any) -> dict[str, Any]:
    document = {"schemaVersion": 2, "config": descriptor(mediatypes.OCI_CONFIG), "layers": [descriptor()]}
    return {**document, **fields}


def encoded(document: object) -> bytes:
    return json.dumps(document).encode()


def test_manifest_round_trip_keeps_what_it_does_not_know() -> None:
    document = manifest(
        mediaType=mediatypes.OCI_MANIFEST,
        layers=[descriptor(annotations={"a": "b"}, urls=["https://x"])],
        annotations={"c": "d"},
        subject=descriptor(),
    )
    decoded = Manifest.decode(encoded(document))
    assert json.loads(decoded.encode()) == document
    assert Manifest.decode(decoded.encode()) == decoded


def test_docker_manifest_is_read() -> None:
    decoded = Manifest.decode(encoded(manifest(mediaType=mediatypes.DOCKER_MANIFEST)))
    assert decoded.media_type == mediatypes.DOCKER_MANIFEST


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        manifest(schemaVersion=1),
        manifest(schemaVersion="2"),
        manifest(schemaVersion=True),
        manifest(mediaType="text/plain"),
        manifest(layers={}),
        manifest(layers=[1]),
        manifest(layers=[descriptor(size=-1)]),
        manifest(layers=[descriptor(size=1 << 63)]),
        manifest(layers=[descriptor(size=True)]),
        manifest(layers=[descriptor(digest="sha256:../x")]),
        manifest(layers=[descriptor(annotations={"a": 1})]),
        manifest(layers=[descriptor()] * 128),
        manifest(config=None),
        manifest(manifests=[]),
    ],
)
def test_bad_manifest(document: object) -> None:
    with pytest.raises(DecodeError):
        decode_document(encoded(document))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"schemaVersion":2,"schemaVersion":2}',
        b'{"schemaVersion":NaN}',
        b'{"schemaVersion":' + b"1" * 10_000 + b"}",
        b'{"mediaType":"\\ud800"}',
        b" " * (MAX_MANIFEST + 1),
    ],
    ids=[
        "empty",
        "not-utf8",
        "deep-array",
        "deep-object",
        "name-twice",
        "nan",
        "long-number",
        "surrogate",
        "large",
    ],
)
def test_hostile_json(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_document(data)


def test_a_manifest_of_127_layers_is_read() -> None:
    assert len(Manifest.decode(encoded(manifest(layers=[descriptor()] * 127))).layers) == 127


def platform(os: str, architecture: str, variant: str = "") -> dict[str, str]:
    return {"os": os, "architecture": architecture, "variant": variant}


def test_index_selects_by_platform() -> None:
    arm, amd = str(Digest.of(b"arm")), str(Digest.of(b"amd"))
    index = decode_document(
        encoded(
            {
                "schemaVersion": 2,
                "manifests": [
                    descriptor(
                        mediatypes.OCI_MANIFEST, digest=arm, platform=platform("linux", "arm64", "v8")
                    ),
                    descriptor(mediatypes.OCI_MANIFEST, digest=amd, platform=platform("linux", "amd64")),
                    descriptor(mediatypes.OCI_MANIFEST),
                ],
            }
        )
    )
    assert isinstance(index, Index)
    assert str(index.select(Platform()).digest) == amd
    assert str(index.select(Platform("linux", "arm64")).digest) == arm
    assert str(index.select(Platform("linux", "arm64", "v8")).digest) == arm
    with pytest.raises(NotFoundError, match="linux/arm64/v8, linux/amd64") as caught:
        index.select(Platform("linux", "arm64", "v7"))
    assert caught.value.code == "image.platform"
    assert Index.decode(index.encode()) == index


def test_configuration() -> None:
    config = ImageConfig.decode(
        encoded(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {
                    "Env": ["A=1"],
                    "Entrypoint": None,
                    "Cmd": ["sh", "-c", "x"],
                    "WorkingDir": "/srv",
                    "User": "app",
                    "Labels": {"k": "v"},
                },
                "rootfs": {"type": "layers", "diff_ids": [EMPTY]},
                "history": [{}],
            }
        )
    )
    assert (config.env, config.entrypoint, config.cmd) == (("A=1",), (), ("sh", "-c", "x"))
    assert (config.working_dir, config.user, dict(config.labels)) == ("/srv", "app", {"k": "v"})
    assert config.diff_ids == (Digest.of(b""),)
    assert ImageConfig.decode(b"{}").cmd == ()


@pytest.mark.parametrize(
    "document",
    [
        {"config": []},
        {"config": {"Cmd": "sh"}},
        {"config": {"Cmd": ["a\0b"]}},
        {"config": {"Env": [1]}},
        {"config": {"Labels": {"a": None}}},
        {"rootfs": {"diff_ids": ["x"]}},
        {"rootfs": {"diff_ids": [EMPTY] * 128}},
        {"os": 1},
    ],
)
def test_bad_configuration(document: object) -> None:
    with pytest.raises(DecodeError):
        ImageConfig.decode(encoded(document))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just(EMPTY),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "mediaType",
                    "digest",
                    "size",
                    "config",
                    "layers",
                    "schemaVersion",
                    "Env",
                    "rootfs",
                    "diff_ids",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(st.binary(max_size=200) | JSON.map(encoded))
def test_decoders_raise_decode_error_only(data: bytes) -> None:
    for decode in (decode_document, Manifest.decode, Index.decode, ImageConfig.decode):
        with contextlib.suppress(DecodeError):
            decode(data)


def test_compression_of_layer_types() -> None:
    assert mediatypes.compression(f"{mediatypes.OCI_LAYER}+gzip+encrypted") == "gzip"
    assert mediatypes.compression(f"{mediatypes.OCI_LAYER}+zstd") == "zstd"
    assert mediatypes.compression("application/vnd.docker.image.rootfs.diff.tar.gzip") == "gzip"
    with pytest.raises(DecodeError):
        mediatypes.compression("application/octet-stream")
