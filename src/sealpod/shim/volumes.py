# SPDX-License-Identifier: Apache-2.0
"""Volumes without a shared file system: what a mount's source holds is copied into the guest.

==========================================  =====================================================
mount                                       in the guest
==========================================  =====================================================
/proc, /sys, /dev, their parts              the agent's own, unless an emptyDir is meant
tmpfs                                       tmpfs
emptyDir with medium Memory                 one tmpfs for the pod (storage ``ephemeral``)
emptyDir                                    one directory for the pod (storage ``local``)
/dev/shm                                    the pod's, unless an emptyDir is meant
a volume the image declares                 the image's own directory, writable
a persistent volume, not read-only          refused: what is written would be lost
mounts that are to show on the node         refused (``mountPropagation: Bidirectional``)
any other directory or file                 a copy, refreshed while kubelet changes the original
/dev/termination-log                        a copy, brought back when the container has ended
==========================================  =====================================================

What is copied comes from the untrusted host, as with any shared file system; what must be secret belongs into
the image or behind the key broker.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from secrets import token_hex
from typing import Any, Final

from sealpod.errors import OperationError, RefusedError, SealpodError, UsageError
from sealpod.sandbox.agent import AgentClient
from sealpod.shim import devices, kubeletvolume, lastwords
from sealpod.shim.agentspec import rootfs_path
from sealpod.shim.copying import Tree, copy_file
from sealpod.shim.kubeletvolume import KubeletVolume
from sealpod.shim.watch import Watch, Watcher
from sealpod.wire.pb import agent_pb2, oci_pb2

SHARED: Final = "/run/kata-containers/shared/containers"
EPHEMERAL: Final = "/run/kata-containers/sandbox/ephemeral"
SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 (inside the container)
BLOCKED: Final = "CopyFileRequest is blocked"
"""The agent's words when the pod's owner lets the host bring in no files."""
DISPENSABLE: Final = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf", lastwords.USUAL)
"""What the guest has of its own, or can be without, when no files may be brought in."""
_KERNELS: Final = ("/proc", "/sys")
_OWN: Final = frozenset((*_KERNELS, "/dev", "/dev/pts", "/dev/mqueue", SHARED_MEMORY, *devices.STANDARD))
_WRITABLE: Final = ("/sys", "/sys/fs/cgroup")
"""The agent's own, read-only unless the request says otherwise, as it does for a privileged container."""
_OUTWARDS: Final = frozenset(("shared", "rshared"))
_IMAGES: Final = re.compile(r"/containers/[^/]+/volumes/[0-9a-f]{64}$")
"""Where containerd makes a directory for a ``VOLUME`` of the image, which it would fill from its snapshot."""
_KEPT_OPTIONS: Final = ("ro", "rw", "nosuid", "nodev", "noexec", "bind", "rbind")


_logger = logging.getLogger(__name__)


class Volumes:
    """The volumes of one pod."""

    def __init__(self, agent: AgentClient, pod: str) -> None:
        self._agent = agent
        self._pod = pod
        self._watcher = Watcher()
        self._watches: dict[str, list[Watch]] = {}

    async def bring(
        self, container_id: str, mounts: Sequence[Mapping[str, Any]]
    ) -> tuple[list[oci_pb2.Mount], list[agent_pb2.Storage]]:
        """The guest's mounts and storages for a specification's mounts; their contents are there then."""
        found: list[oci_pb2.Mount] = []
        storages: dict[str, agent_pb2.Storage] = {}
        for mount in mounts:
            destination, kind = str(mount.get("destination") or ""), str(mount.get("type") or "bind")
            options = [str(one) for one in mount.get("options") or ()]
            source = str(mount.get("source") or "")
            volume = kubeletvolume.find(source)
            empty = volume if volume is not None and volume.plugin == kubeletvolume.EMPTY_DIR else None
            if empty is None and _is_guests_own(destination, kind, source):
                if destination in _WRITABLE and kind != "bind" and "rw" in options:
                    found.append(oci_pb2.Mount(destination=destination, type=kind, options=["rw"]))
                continue
            if kind == "tmpfs":
                found.append(
                    oci_pb2.Mount(destination=destination, type="tmpfs", source="tmpfs", options=options)
                )
                continue
            if kind not in ("bind", "") and "bind" not in options and "rbind" not in options:
                continue  # cgroup, mqueue and the like: the agent's own
            if _OUTWARDS.intersection(options):
                raise _outwards(destination)
            if empty is not None:
                place = self._empty(empty, storages)
            elif _IMAGES.search(source):
                place = rootfs_path(container_id) + destination
            else:
                if volume is not None and volume.plugin not in kubeletvolume.COPIED and "ro" not in options:
                    raise _persistent(volume, destination)
                place = await self._bring(container_id, source, destination)
                if volume is None and "ro" not in options and os.path.isdir(source):
                    _logger.warning(
                        "what is written to %s stays in the guest, not in %s", destination, source
                    )
            if not place:
                continue
            kept = [one for one in options if one in _KEPT_OPTIONS]
            found.append(oci_pb2.Mount(destination=destination, type="bind", source=place, options=kept))
        return found, list(storages.values())

    def forget(self, container_id: str) -> None:
        """The container is gone; its copies need no refreshing."""
        for watch in self._watches.pop(container_id, []):
            watch.close()

    def close(self) -> None:
        """The pod is gone."""
        for container_id in list(self._watches):
            self.forget(container_id)

    def _empty(self, volume: KubeletVolume, storages: dict[str, agent_pb2.Storage]) -> str:
        """Where the guest has an empty directory, or what is below it."""
        options = ["mode=1777" if volume.memory else "mode=0777"]  # as kubelet's own: a tmpfs is sticky
        if volume.group:
            options.append(f"fsgid={volume.group}")
        if volume.memory:
            place = f"{EPHEMERAL}/{volume.name}"
            if volume.size:
                options.append(f"size={volume.size}")
            storages[place] = agent_pb2.Storage(
                driver="ephemeral", source="tmpfs", fstype="tmpfs", options=options, mount_point=place
            )
        else:
            place = f"{SHARED}/{self._pod}/rootfs/local/{volume.name}"
            storages[place] = agent_pb2.Storage(
                driver="local", source="local", fstype="local", options=options, mount_point=place
            )
        return f"{place}/{volume.below}" if volume.below else place

    async def _bring(self, container_id: str, source: str, destination: str) -> str:
        """Where the guest has a copy of what the host has at ``source``; empty if it can be without."""
        name = os.path.basename(source.rstrip("/")) or "root"
        place = f"{SHARED}/{container_id}-{token_hex(4)}-{name}"
        try:
            await self._copy(container_id, source, place)
        except SealpodError as error:
            if error.message != BLOCKED:
                raise
            if destination in DISPENSABLE:
                return ""
            raise _blocked(destination) from error
        return place

    async def _copy(self, container_id: str, source: str, place: str) -> None:
        try:
            if os.path.isdir(source):
                tree = Tree(self._agent, source, place)
                # Watched first: a change while it is copied is seen.
                watch = self._watcher.watch(source, tree.copy)
                self._watches.setdefault(container_id, []).append(watch)
                await tree.copy()
            elif os.path.isfile(source):
                await copy_file(self._agent, source, place)
            else:
                text = f"{source} is no file or directory and cannot be brought into the guest"
                raise UsageError(text, code="shim.volume", remedy="leave the volume out of the pod")
        except OSError as exc:
            text = f"{source} cannot be copied into the guest: {exc.strerror}"
            raise OperationError(text, code="shim.volume") from exc


def _persistent(volume: KubeletVolume, destination: str) -> UsageError:
    return UsageError(
        f"what is written to {destination} would be lost: a guest has a copy of the volume {volume.name!r} "
        f"({volume.plugin}) and not the volume",
        code="shim.volume",
        remedy="mount it read-only, or keep the data with a service of the network",
    )


def _blocked(destination: str) -> RefusedError:
    return RefusedError(
        f"the pod's owner lets no files be brought into the guest, and {destination} needs some",
        code="shim.copy-blocked",
        remedy="leave the volume out of the pod, or allow CopyFileRequest, which changes the launch digest",
    )


def _outwards(destination: str) -> UsageError:
    return UsageError(
        f"what the container mounts below {destination} would not be seen on the node: a guest shares no "
        "mounts with it",
        code="shim.volume",
        remedy="mount the volume without `mountPropagation: Bidirectional`",
    )


def _is_guests_own(destination: str, kind: str, source: str) -> bool:
    """Whether the agent has something of its own there, which what the host has is no better than."""
    place = os.path.normpath(f"/{destination.lstrip('/')}")
    if place in _OWN:
        return True
    inside = _below(place, _KERNELS)
    return inside and (kind != "bind" or (_below(source, _KERNELS) and not os.path.isfile(source)))


def _below(path: str, places: Sequence[str]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)
