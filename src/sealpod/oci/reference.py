# SPDX-License-Identifier: Apache-2.0
"""Image references: ``[HOST[:PORT]/]PATH[:TAG][@DIGEST]``, in the normal form Docker gave them.

The first component is a host if it holds a dot or a colon or is ``localhost``; otherwise the host is
``docker.io``, where a single component moves below ``library/``. Without tag and digest the tag is
``latest``. Grammar: the distribution spec's ``<name>`` and ``<reference>``.

>>> str(ImageReference.parse("busybox"))
'docker.io/library/busybox:latest'
"""

from __future__ import annotations

import re
from typing import Final

from sealpod.errors import DecodeError
from sealpod.oci.digest import Digest
from sealpod.record import Record

DEFAULT_REGISTRY: Final = "docker.io"
DEFAULT_TAG: Final = "latest"
MAX_NAME: Final = 255  # characters of repository, distribution spec
MAX_REFERENCE: Final = 1024  # characters; host, name, tag and digest at their limits stay below

_REGISTRY = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class ImageReference(Record):
    """Where an image is: ``registry`` is ``host[:port]``; at least one of ``tag`` and ``digest`` is set."""

    registry: str
    repository: str
    tag: str | None
    digest: Digest | None

    @classmethod
    def parse(cls, text: str) -> ImageReference:
        """The reference in ``text``; :class:`DecodeError` (``image.reference``) if it is none."""
        if len(text) > MAX_REFERENCE:
            raise _bad(text)
        rest, at, digest_text = text.partition("@")
        digest = Digest.parse(digest_text) if at else None
        registry, path = _split_registry(rest)
        repository, colon, tag = path.partition(":")
        if registry == DEFAULT_REGISTRY and "/" not in repository:
            repository = f"library/{repository}"
        if _REGISTRY.fullmatch(registry) is None or _REPOSITORY.fullmatch(repository) is None:
            raise _bad(text)
        if len(repository) > MAX_NAME or (colon and _TAG.fullmatch(tag) is None):
            raise _bad(text)
        if not colon and digest is None:
            tag = DEFAULT_TAG
        return cls(registry, repository, tag or None, digest)

    @property
    def name(self) -> str:
        """``registry/repository``."""
        return f"{self.registry}/{self.repository}"

    @property
    def selector(self) -> str:
        """What to ask the registry for: the digest if there is one (it pins), else the tag."""
        return str(self.digest) if self.digest is not None else self.tag or DEFAULT_TAG

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{self.name}{tag}{digest}"


def _split_registry(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        # The hub has answered to both names since its first days.
        return (DEFAULT_REGISTRY if first == "index.docker.io" else first), rest
    return DEFAULT_REGISTRY, text


def _bad(text: str) -> DecodeError:
    return DecodeError(
        f"not an image reference: {text[:140]!r}",
        code="image.reference",
        remedy="write it as [host[:port]/]name[:tag][@sha256:...], the name in lower case",
    )
