# SPDX-License-Identifier: Apache-2.0
"""Find a built guest image and the firmware to boot it with."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from sealpod.errors import NotFoundError, OperationError
from sealpod.guestimage import firmware, sources
from sealpod.guestimage.cache import cache_directory, image_directory
from sealpod.guestimage.manifest import FILE_NAME, MAX_SIZE, Manifest

REMEDY: Final = "run `sealpod guest build`"


@dataclass(frozen=True, slots=True)
class GuestImage:
    """Paths of the three files a guest boots from, and the manifest of the two that were built."""

    kernel: str
    initrd: str
    firmware: str
    manifest: Manifest


def locate(
    directory: str | None = None, *, firmware_path: str | None = None, allow_stale: bool = False
) -> GuestImage:
    """The guest image in ``directory`` (default: the cache's), with the firmware found on this machine.

    Raises :class:`NotFoundError` (``guest.missing``, ``guest.firmware``) when a file is not there and
    :class:`OperationError` (``guest.stale``) when sealpod's own code has changed since the image was built;
    ``allow_stale`` takes it all the same, for boots that must repeat an older measurement.
    """
    place = directory or image_directory()
    manifest = read_manifest(place)
    path = None if allow_stale else sources.changed(manifest.sources)
    if path is not None:
        raise OperationError(
            f"the guest image in {place} was built from another sealpod: {path} differs",
            code="guest.stale",
            remedy=REMEDY,
        )
    return GuestImage(
        _output(place, manifest, "kernel"),
        _output(place, manifest, "initrd"),
        firmware_path or firmware.find(cache_directory()),
        manifest,
    )


def initrd_path(directory: str | None = None) -> str:
    """The initrd in ``directory``, stale or not; raises as :func:`locate` does when it is missing."""
    place = directory or image_directory()
    return _output(place, read_manifest(place), "initrd")


def read_manifest(directory: str) -> Manifest:
    """The manifest in ``directory``; :class:`NotFoundError` (``guest.missing``) without one."""
    try:
        with open(os.path.join(directory, FILE_NAME), encoding="utf-8", errors="replace") as stream:
            return Manifest.decode(stream.read(MAX_SIZE))
    except OSError as error:
        raise NotFoundError(
            f"there is no guest image in {directory}", code="guest.missing", remedy=REMEDY
        ) from error


def _output(directory: str, manifest: Manifest, name: str) -> str:
    output = manifest.outputs.get(name)
    path = os.path.join(directory, output.file) if output else ""
    # The size tells a half-copied directory; the content is for the launch digest to tell.
    if output is None or not os.path.isfile(path) or os.path.getsize(path) != output.size:
        raise NotFoundError(
            f"the guest image in {directory} lacks its {name}", code="guest.missing", remedy=REMEDY
        )
    return path
