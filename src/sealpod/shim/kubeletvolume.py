# SPDX-License-Identifier: Apache-2.0
"""Which of kubelet's volumes a mount's source is, or is in.

kubelet makes a volume of a pod as ``.../pods/UID/volumes/kubernetes.io~PLUGIN/NAME``, a directory or a mount.
A ``subPath`` of one is a bind mount at ``.../pods/UID/volume-subpaths/NAME/CONTAINER/N``, of which only the
kernel's table knows what is behind it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Final, NamedTuple

MOUNTINFO: Final = "/proc/self/mountinfo"
PLUGIN: Final = "/kubernetes.io~"
SUBPATHS: Final = "/volume-subpaths/"
EMPTY_DIR: Final = "empty-dir"
COPIED: Final = frozenset(("configmap", "secret", "projected", "downward-api"))
"""Plugins whose volumes kubelet writes and containers only read."""


class KubeletVolume(NamedTuple):
    """A volume, or a directory in it."""

    plugin: str
    name: str
    below: str
    """The directory's path in the volume; empty for the volume itself."""
    memory: bool = False
    """It is a tmpfs."""
    size: str = ""
    """Of a tmpfs, as mount(8) writes it; empty if it has no limit."""
    group: int = 0
    """The group it belongs to, a pod's ``fsGroup``; 0 without one."""


class _Mount(NamedTuple):
    """A line of proc(5)'s mountinfo."""

    device: str
    root: str
    place: str
    kind: str
    options: str


def find(source: str, table: str = MOUNTINFO) -> KubeletVolume | None:
    """The volume ``source`` is of, if it is of one."""
    if PLUGIN not in source and SUBPATHS not in source:
        return None
    with open(table, encoding="utf-8", errors="replace") as file:
        mounts = [mount for line in file if (mount := _mount(line)) is not None]
    place, below = _place(source.rstrip("/"), mounts)
    if not place:
        return None
    own = [one for one in mounts if one.place == place and one.kind == "tmpfs"]
    size, group = "", 0
    for word in own[-1].options.split(",") if own else ():
        if word.startswith("size="):
            size = word.partition("=")[2]
    with contextlib.suppress(OSError):
        group = os.stat(source).st_gid
    plugin, _, name = place.rpartition(PLUGIN)[2].partition("/")
    return KubeletVolume(plugin, name, below, bool(own), size, group)


def _place(source: str, mounts: Iterable[_Mount]) -> tuple[str, str]:
    """The volume's own directory, and the path in it; the first is empty when it is no volume's."""
    if PLUGIN in source:
        return _split(source)
    for mount in [one for one in mounts if one.place == source][-1:]:
        if PLUGIN in mount.root:
            return _split(mount.root)
        for other in mounts:
            whole, _ = _split(other.place)
            if other.device == mount.device and whole:
                return whole, mount.root.strip("/")
    return "", ""


def _split(path: str) -> tuple[str, str]:
    front, found, rest = path.partition(PLUGIN)
    plugin, _, rest = rest.partition("/")
    name, _, below = rest.partition("/")
    return (f"{front}{PLUGIN}{plugin}/{name}", below) if found and name else ("", "")


def _mount(line: str) -> _Mount | None:
    fields, _, kind = line.partition(" - ")
    words, behind = fields.split(" "), kind.split()
    if len(words) < 5 or len(behind) < 3:
        return None
    return _Mount(words[2], words[3], words[4], behind[0], behind[2])
