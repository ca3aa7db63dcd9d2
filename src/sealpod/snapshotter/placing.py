# SPDX-License-Identifier: Apache-2.0
"""Which snapshots have files on this host.

containerd's labels decide. A layer it is about to unpack carries the name it would commit it under
(:data:`~sealpod.snapshotter.rows.TARGET`) and, pulled over CRI with snapshot annotations, the image's name. A
key that begins with ``extract-`` but has no such label is an imported image's: its layers are on the host
already, and their caller unpacks them whatever it is told. A container's snapshot goes with its image's.
"""

from __future__ import annotations

import fnmatch
import logging
import re
from collections.abc import Mapping
from typing import Final

from sealpod.errors import VerificationError
from sealpod.snapshotter.rows import TARGET, Place

IMAGE: Final = "containerd.io/snapshot/cri.image-ref"
_EXTRACT: Final = re.compile(r"(?:[^/]+/[0-9]+/)?extract-")

_logger = logging.getLogger(__name__)


class Placing:
    """The decision, given the patterns of ``--host-images``."""

    def __init__(self, host_images: tuple[str, ...]) -> None:
        self._patterns = tuple(re.compile(fnmatch.translate(pattern)) for pattern in host_images)
        self._warned = False

    def is_for_guest(self, labels: Mapping[str, str]) -> bool:
        """Whether this is a layer that only guests unpack."""
        return bool(labels.get(TARGET)) and not self._is_hosts(labels)

    def place(self, key: str, labels: Mapping[str, str], parent: Place | None) -> Place:
        """Where a new snapshot's files are.

        :raise VerificationError: they would lie upon a layer whose files are not here.
        """
        unpacked = bool(labels.get(TARGET)) or _EXTRACT.match(key) is not None
        if unpacked and parent is Place.GUEST:
            raise VerificationError(
                f"{labels.get(IMAGE) or 'the image'} needs a layer of a guest's image that has no files here",
                code="snapshotter.shared-layer",
                remedy="remove the guests' images that share it from this node, then pull this one first",
            )
        if unpacked or parent is Place.HOST:
            return Place.HOST
        return Place.GUEST

    def _is_hosts(self, labels: Mapping[str, str]) -> bool:
        image = labels.get(IMAGE)
        if self._patterns and image is None and not self._warned:
            self._warned = True
            _logger.warning(
                "a layer came without its image's name: --host-images has no effect unless images are pulled "
                "over CRI with disable_snapshot_annotations = false"
            )
        return image is not None and any(pattern.match(image) for pattern in self._patterns)
