# SPDX-License-Identifier: Apache-2.0
"""A container's root file system: an overlay of the image's layers with a writable layer in guest memory.

The layers are never written, and layer directories have short names because mount(2) takes one page of
options.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Final

from sealpod.agent import syscalls
from sealpod.errors import OperationError

MAX_OPTIONS: Final = 4095
"""Bytes of options mount(2) takes: a page with its final zero."""
_ESCAPE = re.compile(rb"\\([0-7]{3})")


def mount_overlay(layers: Sequence[str], directory: str, rootfs: str) -> None:
    """Mount ``layers`` (bottom first) at ``rootfs``; ``directory`` receives the writable layer.

    Its file system must not itself be an overlay. Raises :class:`OperationError` (``container.rootfs``).
    """
    upper = os.path.join(directory, "upper")
    work = os.path.join(directory, "work")
    for path in (upper, work, rootfs):
        os.mkdir(path, 0o755)
    if layers:
        # The root directory is seen as the writable layer has it; the image's may be stricter or laxer.
        status = os.stat(layers[-1])
        os.chmod(upper, status.st_mode & 0o7777)
        os.chown(upper, status.st_uid, status.st_gid)
    # The kernel wants the topmost layer first.
    options = f"lowerdir={':'.join(reversed(layers))},upperdir={upper},workdir={work}"
    if len(options.encode()) > MAX_OPTIONS:
        raise OperationError(f"{len(layers)} layers are too many to mount", code="container.rootfs")
    try:
        syscalls.mount("overlay", rootfs, "overlay", syscalls.MS_NODEV, options)
    except OSError as exc:
        text = f"cannot mount the container's root file system: {exc.strerror}"
        raise OperationError(text, code="container.rootfs") from exc


def remove(directory: str, rootfs: str, image: str = "") -> None:
    """Undo :func:`mount_overlay`, also after it failed half way, and delete ``directory``, and ``image``.

    Everything mounted below is unmounted first: deleting through a mount would empty a volume that others
    use. What cannot be unmounted keeps its directory.
    """
    import shutil  # here, since it imports every compressor and few guests remove a container

    if os.path.ismount(rootfs):
        syscalls.unmount(rootfs, syscalls.MNT_DETACH)
    for place in reversed(mounted_below(directory)):
        syscalls.unmount(place, syscalls.MNT_DETACH)
    for path in filter(None, (directory, image)):
        shutil.rmtree(path, ignore_errors=True)


def mounted_below(directory: str, table: str = "/proc/self/mountinfo") -> list[str]:
    """Mount points below ``directory`` in the order they were mounted (proc(5): the fifth field, escaped)."""
    found = []
    with open(table, "rb") as file:
        for line in file:
            place = os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), line.split(b" ")[4]))
            if place.startswith(f"{directory}/"):
                found.append(place)
    return found
