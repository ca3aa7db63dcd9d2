# SPDX-License-Identifier: Apache-2.0
"""Volumes the guest itself makes: memory, plain directories, and places of these shown elsewhere.

==============  ======================================  ==========================
driver          what it is                              mount points lie below
==============  ======================================  ==========================
``ephemeral``   a tmpfs (``size=``, ``mode=``)          ``sandbox``
``local``       a directory (``mode=``)                 ``shared/containers``
``bind``        another place, ``source``               either
==============  ======================================  ==========================

A volume is known by its mount point: who asks for the same again gets what is there, with what was written to
it. It lives as long as the pod, since a container that is started anew must find it again.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Sequence
from typing import Final

from sealpod.agent import confined, syscalls
from sealpod.errors import ConflictError, OperationError, UsageError
from sealpod.wire.message import Message

EPHEMERAL: Final = "ephemeral"
LOCAL: Final = "local"
BIND: Final = "bind"
DRIVERS: Final = (EPHEMERAL, LOCAL, BIND)
MAX_VOLUMES: Final = 256
CODE: Final = "container.storage"
_FLAGS: Final = {
    "ro": syscalls.MS_RDONLY,
    "nosuid": syscalls.MS_NOSUID,
    "nodev": syscalls.MS_NODEV,
    "noexec": syscalls.MS_NOEXEC,
}
_TMPFS_WORDS: Final = ("size", "mode", "nr_inodes")
GROUP_BITS: Final = 0o2070
"""A group's volume is the group's to write, and so is what is made in it."""


class Volumes:
    """The volumes of a pod. ``sandbox`` and ``shared`` are the directories they may lie below."""

    def __init__(self, sandbox: str, shared: str) -> None:
        self.roots = (sandbox, shared)
        self._below = {EPHEMERAL: (sandbox,), LOCAL: (shared,), BIND: self.roots}
        self._lock = threading.Lock()
        self._made: dict[str, str] = {}  # driver by mount point

    def make(self, storage: Message) -> None:
        """Make the volume unless it is there. Raises :class:`UsageError` (``container.storage``)."""
        driver, place = storage.driver, storage.mount_point.rstrip("/")
        if driver not in DRIVERS:
            raise UsageError(f"storage driver {driver!r} is not supported", code=CODE)
        confined.split(place, self._below[driver])
        with self._lock:
            if place in self._made:
                if self._made[place] != driver:
                    text = f"the volume {place} is of the driver {self._made[place]}, not {driver}"
                    raise ConflictError(text, code=CODE)
                return
            if len(self._made) >= MAX_VOLUMES:
                raise UsageError(f"a pod has at most {MAX_VOLUMES} volumes", code=CODE)
            self._make(storage, place)
            self._made[place] = driver

    def has(self, place: str) -> bool:
        """Whether there is a volume at this mount point."""
        with self._lock:
            return place in self._made

    def make_below(self, path: str) -> bool:
        """Make the directory ``path``, as open as the volume it lies in; False if it lies in none."""
        with self._lock:
            place = next((one for one in self._made if path.startswith(f"{one}/")), "")
        if place:
            mode = stat.S_IMODE(os.stat(place).st_mode)
            os.close(confined.open_directory(path, self.roots, mode=mode))
        return bool(place)

    def _make(self, storage: Message, place: str) -> None:
        group = _group(storage)
        mode = _mode(storage.options) | (GROUP_BITS if group is not None else 0)
        directory = confined.open_directory(place, self._below[storage.driver])
        try:
            if storage.driver == LOCAL:
                _give(directory, group, mode)
            elif storage.driver == BIND:
                self._bind(storage, directory)
            else:
                _mount_memory(storage, directory, group, mode)
        except OSError as exc:
            text = f"cannot make the volume {place}: {exc.strerror}"
            raise OperationError(text, code="container.volume") from exc
        finally:
            os.close(directory)

    def _bind(self, storage: Message, directory: int) -> None:
        source = confined.open_source(storage.source, self.roots)
        try:
            syscalls.bind(source, directory, _flags(storage.options))
        finally:
            os.close(source)

    def clear(self) -> None:
        """Unmount all; what was written is gone with the guest."""
        with self._lock:
            for place, driver in reversed(self._made.items()):
                if driver != LOCAL:
                    with contextlib.suppress(OSError):
                        syscalls.unmount(place, syscalls.MNT_DETACH)
            self._made.clear()


def _mount_memory(storage: Message, directory: int, group: int | None, mode: int) -> None:
    if storage.fstype not in ("", "tmpfs"):
        raise UsageError(f"a volume in memory cannot be of type {storage.fstype!r}", code=CODE)
    words = [word for word in storage.options if word.partition("=")[0] in _TMPFS_WORDS]
    if group is not None:
        words += [f"gid={group}"]
    words = [word for word in words if not word.startswith("mode=")] + [f"mode={mode:o}"]
    # By descriptor: the directory may lie in a volume, where a container could put a link in its place.
    place = f"/proc/self/fd/{directory}"
    syscalls.mount("tmpfs", place, "tmpfs", _flags(storage.options), ",".join(words))


def _give(directory: int, group: int | None, mode: int) -> None:
    if group is not None:
        os.fchown(directory, -1, group)
    os.fchmod(directory, mode)


def _flags(options: Sequence[str]) -> int:
    flags = syscalls.MS_NODEV
    for option in options:
        flags |= _FLAGS.get(option, 0)
    return flags


def _mode(options: Sequence[str]) -> int:
    return _number(options, "mode", 8, 0o7777, 0o755) or 0


def _group(storage: Message) -> int | None:
    """The group the volume is to belong to: a field of the request, or an option of Kata's."""
    if storage.has("fs_group"):
        return int(storage.fs_group.group_id)
    return _number((*storage.options, *storage.driver_options), "fsgid", 10, (1 << 32) - 2, None)


def _number(options: Sequence[str], name: str, base: int, limit: int, default: int | None) -> int | None:
    for option in options:
        key, _, value = option.partition("=")
        if key == name:
            try:
                number = int(value, base) if value.isascii() and value.isdigit() else -1
            except ValueError:
                number = -1
            if not 0 <= number <= limit:
                raise UsageError(f"{option[:100]!r} is no option of a volume", code=CODE)
            return number
    return default
