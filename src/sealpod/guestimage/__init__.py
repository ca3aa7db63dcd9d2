# SPDX-License-Identifier: Apache-2.0
"""The guest's kernel, initrd and firmware: where they are, and how they are made from Debian packages.

:func:`locate` is what a launcher needs. Building is :func:`sealpod.guestimage.build.build`, behind
``sealpod guest build``.
"""

from __future__ import annotations

from sealpod.guestimage.cache import cache_directory, image_directory
from sealpod.guestimage.locate import GuestImage, locate
from sealpod.guestimage.manifest import Manifest

__all__ = ["GuestImage", "Manifest", "cache_directory", "image_directory", "locate"]
