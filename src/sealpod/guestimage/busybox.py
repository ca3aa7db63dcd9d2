# SPDX-License-Identifier: Apache-2.0
"""The static busybox of the guest image: for demonstrations, a whole container image in one file."""

from __future__ import annotations

from typing import Final

from sealpod.errors import NotFoundError
from sealpod.guestimage import cpio
from sealpod.guestimage.locate import REMEDY, initrd_path

BUSYBOX: Final = "bin/busybox"


def read_busybox(directory: str | None = None) -> bytes:
    """The program's bytes, out of the initrd in ``directory`` (default: the cache's).

    Raises :class:`NotFoundError` (``guest.missing``) without an image, :class:`DecodeError` for a damaged
    one.
    """
    path = initrd_path(directory)
    with open(path, "rb") as stream:
        content = cpio.find(stream, BUSYBOX)
    if content is None:
        raise NotFoundError(f"{path} holds no busybox", code="guest.missing", remedy=REMEDY)
    return content
