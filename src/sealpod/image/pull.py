# SPDX-License-Identifier: Apache-2.0
"""Pull an image: fetch, verify, decrypt and unpack every layer, or leave nothing behind."""

from __future__ import annotations

from dataclasses import dataclass

from sealpod.errors import OperationError
from sealpod.image.ports import ImageSource, KeyUnwrapper, Progress
from sealpod.oci.config import ImageConfig
from sealpod.oci.descriptor import Platform
from sealpod.oci.digest import Digest
from sealpod.oci.reference import ImageReference


@dataclass(frozen=True, slots=True)
class PulledImage:
    """An image in the store: ``layers`` are directories, bottom first, ready for an overlay mount."""

    reference: ImageReference
    manifest_digest: Digest
    config: ImageConfig
    layers: tuple[str, ...]


def pull(
    source: ImageSource,
    reference: ImageReference,
    unwrap: KeyUnwrapper | None,
    store: str,
    *,
    platform: Platform | None = None,
    progress: Progress | None = None,
) -> PulledImage:
    """Pull ``reference`` from ``source`` into a new directory below ``store``."""
    raise OperationError("not built yet")
