# SPDX-License-Identifier: Apache-2.0
"""Manifests and indexes (OCI image spec: manifest.md, image-index.md; Docker v2 schema 2 reads the same).

Bytes in, values out, :class:`DecodeError` for everything else. A digest is of bytes, never of a parsed
manifest: whoever compares one hashes the body it received, not ``encode()``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sealpod.errors import DecodeError, NotFoundError
from sealpod.oci import mediatypes
from sealpod.oci.descriptor import Descriptor, Platform, descriptors, nothing
from sealpod.record import Record, field
from sealpod.wire import strictjson

MAX_MANIFEST: Final = 4 * 1024 * 1024  # bytes; distribution spec, "registries SHOULD" limit
MAX_LAYERS: Final = 127  # Docker's limit, also what an overlay mount's option page holds
MAX_MANIFESTS: Final = 1024  # entries of an index; real ones have a few dozen platforms

_KNOWN: Final = ("schemaVersion", "mediaType", "config", "layers", "annotations")
__all__ = ["MAX_LAYERS", "MAX_MANIFEST", "Descriptor", "Index", "Manifest", "Platform", "decode_document"]


class Manifest(Record):
    """One image: its configuration and its layers, bottom first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = mediatypes.OCI_MANIFEST
    annotations: Mapping[str, str] = field(default_factory=nothing)
    extra: Mapping[str, object] = field(default_factory=nothing, repr=False)

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """The manifest in ``data``, at most 4 MiB and 127 layers."""
        document = strictjson.parse_object(data, what="manifest", limit=MAX_MANIFEST)
        return cls._from_json(document)

    @classmethod
    def _from_json(cls, document: dict[str, object]) -> Manifest:
        what = "manifest"
        _expect_schema(document, what)
        media_type = strictjson.optional_text(document, "mediaType", what=what) or mediatypes.OCI_MANIFEST
        if media_type not in mediatypes.MANIFESTS:
            raise DecodeError(f"not an image manifest: {media_type[:140]!r}", code="image.media-type")
        if "config" not in document or "layers" not in document:
            raise DecodeError("manifest without config or layers")
        return cls(
            Descriptor.from_json(strictjson.member(document, "config", what=what), what=f"{what}, config"),
            descriptors(document, "layers", what=what, most=MAX_LAYERS),
            media_type,
            strictjson.text_map(document, "annotations", what=what),
            {name: value for name, value in document.items() if name not in _KNOWN},
        )

    def encode(self) -> bytes:
        """Compact JSON in the spec's member order."""
        document: dict[str, object] = {"schemaVersion": 2, "mediaType": self.media_type}
        document["config"] = self.config.to_json()
        document["layers"] = [layer.to_json() for layer in self.layers]
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        document.update(self.extra)
        return strictjson.encode(document)


class Index(Record):
    """Several manifests, one per platform (or, in a layout, one per tag)."""

    manifests: tuple[Descriptor, ...]
    media_type: str = mediatypes.OCI_INDEX
    annotations: Mapping[str, str] = field(default_factory=nothing)

    @classmethod
    def decode(cls, data: bytes) -> Index:
        """The index or Docker manifest list in ``data``, at most 4 MiB."""
        return cls._from_json(strictjson.parse_object(data, what="index", limit=MAX_MANIFEST))

    @classmethod
    def _from_json(cls, document: dict[str, object]) -> Index:
        _expect_schema(document, "index")
        media_type = strictjson.optional_text(document, "mediaType", what="index") or mediatypes.OCI_INDEX
        if media_type not in mediatypes.INDEXES:
            raise DecodeError(f"not an image index: {media_type[:140]!r}", code="image.media-type")
        return cls(
            descriptors(document, "manifests", what="index", most=MAX_MANIFESTS),
            media_type,
            strictjson.text_map(document, "annotations", what="index"),
        )

    def encode(self) -> bytes:
        """Compact JSON in the spec's member order."""
        document: dict[str, object] = {"schemaVersion": 2, "mediaType": self.media_type}
        document["manifests"] = [entry.to_json() for entry in self.manifests]
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return strictjson.encode(document)

    def select(self, platform: Platform) -> Descriptor:
        """The first manifest for ``platform``; an entry's variant counts only if one is asked for."""
        for entry in self.manifests:
            if entry.platform is not None and _serves(entry.platform, platform):
                return entry
        known = ", ".join(str(entry.platform) for entry in self.manifests if entry.platform) or "none"
        raise NotFoundError(
            f"the image has no manifest for {platform} (it has {known})",
            code="image.platform",
            remedy="build or pull the image for this platform",
        )


def decode_document(data: bytes) -> Manifest | Index:
    """A manifest or an index, told apart by ``mediaType`` or, without it, by its members."""
    document = strictjson.parse_object(data, what="manifest", limit=MAX_MANIFEST)
    media_type = strictjson.optional_text(document, "mediaType", what="manifest")
    # Both shapes in one document could be read differently by two readers (CVE-2021-41190): refuse it.
    if "manifests" in document and ("layers" in document or "config" in document):
        raise DecodeError("the document is a manifest and an index at once", code="image.ambiguous")
    if media_type in mediatypes.INDEXES or (not media_type and "manifests" in document):
        return Index._from_json(document)
    return Manifest._from_json(document)


def _expect_schema(document: dict[str, object], what: str) -> None:
    version = strictjson.integer(document, "schemaVersion", what=what)
    if version != 2:
        raise DecodeError(f"{what} has schemaVersion {version}, only 2 is known", code="image.media-type")


def _serves(offered: Platform, wanted: Platform) -> bool:
    same = (offered.os, offered.architecture) == (wanted.os, wanted.architecture)
    return same and (not wanted.variant or offered.variant == wanted.variant)
