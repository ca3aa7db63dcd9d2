# SPDX-License-Identifier: Apache-2.0
"""What containerd mounts for a snapshot.

For a guest's image: an empty directory, bound. containerd mounts it for a moment to look for the container's
user, and hands it to the shim. An option that no kernel reads tells a shim of Kata's kind what it stands for
(Kata's ``KataVirtualVolume``, base64 of JSON); bind mounts ignore it, and containerd passes it on.

For a host's image: an overlay of the layers' directories, or a bind mount where there is but one.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from typing import Final

from sealpod.snapshotter.directories import Directories
from sealpod.snapshotter.placing import IMAGE
from sealpod.snapshotter.rows import Place, Snapshot
from sealpod.wire.message import Message
from sealpod.wire.snapshotapi import ACTIVE, MESSAGES

VOLUME: Final = "io.katacontainers.volume="
NO_IMAGE: Final = "dummy-image-reference"
"""Kata's word for: the shim knows the image from the container's annotations."""
MAX_VOLUME: Final = 2048
"""Bytes of the option; containerd and mount(2) take a page of all of them."""
INDEX: Final = "/sys/module/overlay/parameters/index"


def mounts(snapshot: Snapshot, ancestors: Sequence[int], directories: Directories) -> list[Message]:
    """The mounts of an active snapshot or a view; ``ancestors`` nearest first."""
    files = directories.files(snapshot.id)
    writable = snapshot.kind == ACTIVE
    if snapshot.place is Place.GUEST:
        return [_bind(files, writable, volume(snapshot.labels))]
    lower = [directories.files(number) for number in ancestors]
    if not lower:
        return [_bind(files, writable)]
    if writable:
        upper = [f"workdir={directories.work(snapshot.id)}", f"upperdir={files}"]
        return [_overlay([*upper, f"lowerdir={':'.join(lower)}"])]
    return [_bind(lower[0], False)] if len(lower) == 1 else [_overlay([f"lowerdir={':'.join(lower)}"])]


def volume(labels: Mapping[str, str]) -> str:
    """The option for a shim. Labels that would make it too long are left out, the longest first."""
    kept = dict(labels)
    while True:
        document = {
            "volume_type": "image_guest_pull",
            "source": labels.get(IMAGE, NO_IMAGE),
            "image_pull": {"metadata": kept},
        }
        data = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
        option = VOLUME + base64.b64encode(data).decode()
        if len(option) <= MAX_VOLUME or not kept:
            return option if len(option) <= MAX_VOLUME else ""
        del kept[max(kept, key=lambda name: len(kept[name]))]


def _bind(source: str, writable: bool, *more: str) -> Message:
    options = ["rbind", "rw" if writable else "ro", *(one for one in more if one)]
    return MESSAGES.new("Mount", type="bind", source=source, options=options)


def _overlay(options: list[str]) -> Message:
    # Without an index a lower directory may be part of several overlays at once.
    more = ["index=off"] if os.path.exists(INDEX) else []
    return MESSAGES.new("Mount", type="overlay", source="overlay", options=[*options, *more])
