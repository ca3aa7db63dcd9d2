# SPDX-License-Identifier: Apache-2.0
"""Media types of manifests, configurations and layers: OCI, Docker's v2 schema 2, and ocicrypt's suffix.

Encryption is the outermost coding: Encrypt(Compress(tar)). Removing the suffix ``+encrypted`` gives the type
of what decryption yields (spec of ocicrypt: every layer type may carry it).
"""

from __future__ import annotations

from typing import Final

from sealpod.errors import DecodeError

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_NONDISTRIBUTABLE: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"

MANIFESTS: Final = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEXES: Final = (OCI_INDEX, DOCKER_LIST)
CONFIGS: Final = (OCI_CONFIG, DOCKER_CONFIG)
ENCRYPTED: Final = "+encrypted"

# Docker's layer types and the OCI types of the same bytes (image-spec, "Compatibility Matrix").
OCI_OF_DOCKER: Final = {
    DOCKER_MANIFEST: OCI_MANIFEST,
    DOCKER_CONFIG: OCI_CONFIG,
    "application/vnd.docker.image.rootfs.diff.tar": OCI_LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": f"{OCI_LAYER}+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": f"{OCI_LAYER}+zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar": OCI_NONDISTRIBUTABLE,
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": f"{OCI_NONDISTRIBUTABLE}+gzip",
}

PLAIN: Final = ""
GZIP: Final = "gzip"
ZSTD: Final = "zstd"
COMPRESSIONS: Final = {
    f"{base}{suffix}": name
    for base in (OCI_LAYER, OCI_NONDISTRIBUTABLE)
    for suffix, name in (("", PLAIN), ("+gzip", GZIP), ("+zstd", ZSTD))
}


def is_encrypted(media_type: str) -> bool:
    """Whether the type says the blob is ciphertext."""
    return media_type.endswith(ENCRYPTED)


def to_oci(media_type: str) -> str:
    """The OCI name of a Docker type; any other type as it is."""
    return OCI_OF_DOCKER.get(media_type, media_type)


def compression(media_type: str) -> str:
    """How a layer's plaintext is compressed: ``PLAIN``, ``GZIP``, ``ZSTD``; DecodeError if it is no layer."""
    inner = to_oci(media_type.removesuffix(ENCRYPTED))
    name = COMPRESSIONS.get(inner)
    if name is None:
        raise DecodeError(f"not a layer media type: {media_type[:140]!r}", code="image.media-type")
    return name
