# SPDX-License-Identifier: Apache-2.0
"""What a container's bind mounts may show: the pod's volumes, copied files, its own image's directories.

A directory of a volume is made when it is first asked for: kubelet makes a ``subPath`` on its own side, where
the volume's contents are not. A directory of the container's own root file system is what containerd calls an
image's volume; mounted once more in its place it can be written to while the rest is read-only, and has the
contents and the owner the image gives it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from sealpod.agent import confined
from sealpod.agent.storage import Volumes
from sealpod.errors import DecodeError, UsageError
from sealpod.wire.message import Message

MODE: Final = 0o755
"""Of a directory the image declares as a volume and does not have."""


class Sources:
    """Sources for one container, whose root file system is mounted at ``rootfs``."""

    def __init__(self, volumes: Volumes, rootfs: str) -> None:
        self._volumes = volumes
        self._rootfs = rootfs

    def check(self, mounts: Iterable[Message]) -> None:
        """Raises :class:`UsageError` (``container.spec``) where the image would be shown in another place."""
        for mount in mounts:
            if self._is_in_image(mount.source) and mount.source != self._rootfs + mount.destination:
                text = f"a directory of the image cannot be shown at {mount.destination[:140]!r}"
                raise UsageError(text, code="container.spec")

    def _is_in_image(self, path: str) -> bool:
        return path.startswith(f"{self._rootfs}/")

    def open(self, path: str) -> int:
        """A descriptor of what is at ``path``. Raises :class:`UsageError` (``sandbox.path``)."""
        if self._is_in_image(path):
            return self._in_image(path)
        roots = self._volumes.roots
        try:
            return confined.open_source(path, roots)
        except UsageError as exc:
            if not isinstance(exc.__cause__, FileNotFoundError) or not self._volumes.make_below(path):
                raise
        return confined.open_source(path, roots)

    def _in_image(self, path: str) -> int:
        from sealpod.image.rootdir import RootDirectory, split

        def created(_: object, descriptor: int) -> None:
            os.fchmod(descriptor, MODE)

        try:
            with RootDirectory(self._rootfs) as root:
                parts = split(os.fsencode(path.removeprefix(self._rootfs)))
                return os.dup(root.directory(parts, created))
        except (OSError, DecodeError) as exc:
            said = exc.strerror if isinstance(exc, OSError) else exc.one_line()
            text = f"{path[:140]!r} is no directory of the image: {said}"
            raise UsageError(text, code=confined.CODE) from exc
