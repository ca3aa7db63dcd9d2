# SPDX-License-Identifier: Apache-2.0
"""Descriptors: type, digest, size and annotations of a content (OCI image spec, descriptor.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sealpod.errors import DecodeError
from sealpod.oci.digest import Digest
from sealpod.record import Record, field
from sealpod.wire import strictjson

_KNOWN: Final = ("mediaType", "digest", "size", "annotations", "platform")


def nothing() -> Mapping[str, Any]:
    """No members: the default of a mapping field; one shared value is refused by Python before 3.12."""
    return {}


class Platform(Record):
    """For which machine a manifest is: ``os`` and ``architecture`` as Go names them."""

    os: str = "linux"
    architecture: str = "amd64"
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(Record):
    """A reference to content. ``extra`` keeps members this project does not know, so that they survive."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=nothing)
    platform: Platform | None = None
    extra: Mapping[str, object] = field(default_factory=nothing, repr=False)

    @classmethod
    def from_json(cls, document: dict[str, object], *, what: str) -> Descriptor:
        """The descriptor in a parsed JSON object; DecodeError if a member is missing or of another type."""
        return cls(
            strictjson.text(document, "mediaType", what=what),
            Digest.parse(strictjson.text(document, "digest", what=what)),
            strictjson.integer(document, "size", what=what),
            strictjson.text_map(document, "annotations", what=what),
            _platform(document, what),
            {name: value for name, value in document.items() if name not in _KNOWN},
        )

    def to_json(self) -> dict[str, object]:
        """The JSON object, members in the spec's order."""
        document: dict[str, object] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size,
        }
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        if self.platform is not None:
            document["platform"] = _platform_json(self.platform)
        document.update(self.extra)
        return document

    def with_annotations(self, annotations: Mapping[str, str]) -> Descriptor:
        """The same content under other annotations."""
        return self.replace(annotations=annotations)


def descriptors(document: dict[str, object], name: str, *, what: str, most: int) -> tuple[Descriptor, ...]:
    """The array ``name`` of descriptors, at most ``most``."""
    objects = strictjson.array(document, name, dict, what=what)
    if len(objects) > most:
        raise DecodeError(f"{what} has {len(objects)} {name}, more than the limit of {most}")
    return tuple(Descriptor.from_json(item, what=f"{what}, {name}[{i}]") for i, item in enumerate(objects))


def _platform(document: dict[str, object], what: str) -> Platform | None:
    if document.get("platform") is None:
        return None
    value = strictjson.member(document, "platform", what=what)
    names = ("os", "architecture", "variant")
    return Platform(*(strictjson.optional_text(value, name, what=f"{what}, platform") for name in names))


def _platform_json(platform: Platform) -> dict[str, str]:
    document = {"architecture": platform.architecture, "os": platform.os}
    if platform.variant:
        document["variant"] = platform.variant
    return document
