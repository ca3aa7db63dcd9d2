# SPDX-License-Identifier: Apache-2.0
"""Users by name: the numbers a snapshotter gave for names, turned back into them for the guest to resolve.

See :mod:`sealpod.snapshotter.users`. Only numbers of its range are looked at, and only those that the
container's own snapshot has a name for.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from sealpod.wire.message import Message
from sealpod.wire.pb import agent_pb2
from sealpod.wire.snapshotapi import NAMED

MAX_SIZE: Final = 64 << 10  # bytes of a file; the snapshotter writes far less


class Names(NamedTuple):
    """Names by number."""

    users: Mapping[int, str] = {}
    groups: Mapping[int, str] = {}

    def has(self, number: int) -> bool:
        """Whether the number stands for a name."""
        return number in self.users or number in self.groups


NO_NAMES: Final = Names()


def of_rootfs(rootfs: Iterable[Message]) -> Names:
    """The names in the directory a container's root file system is bound from."""
    for mount in rootfs:
        if mount.type == "bind":
            return Names(_read(mount.source, "passwd"), _read(mount.source, "group"))
    return NO_NAMES


def user_of(process: Mapping[str, Any], names: Names) -> agent_pb2.StringUser:
    """A process's user as Kata's API has it: numbers as text, or names.

    Users are always sent, so that 0 means root. A group of 0 beside another user's number is what containerd
    says when it found no ``/etc/passwd``; it is left to the guest, as the group of a user by name is.
    containerd puts the group among the further ones too: what it did not find must not make anybody a member
    of root's group.
    """
    user = process.get("user") or {}
    uid, gid = int(user.get("uid") or 0), int(user.get("gid") or 0)
    more = [
        str(number)
        for number in user.get("additionalGids") or ()
        if not names.has(number) and (number or gid or not uid)
    ]
    named = uid in names.users
    if gid in names.groups:
        group = names.groups[gid]
    elif gid in names.users:
        group = ""
    else:
        group = str(gid) if gid or named or not uid else ""
    return agent_pb2.StringUser(uid=names.users.get(uid, str(uid)), gid=group, additionalGids=more)


def is_named(process: Mapping[str, Any], names: Names) -> bool:
    """Whether a process's user or group is one of the names."""
    user = process.get("user") or {}
    return any(names.has(int(user.get(field) or 0)) for field in ("uid", "gid"))


def _read(root: str, name: str) -> dict[int, str]:
    found: dict[int, str] = {}
    with contextlib.suppress(OSError, ValueError):
        path = os.path.join(root, "etc", name)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, encoding="ascii") as file:
            for line in file.read(MAX_SIZE).splitlines():
                fields = line.split(":")
                if len(fields) > 2 and fields[0] and fields[2].isdecimal() and int(fields[2]) in NAMED:
                    found[int(fields[2])] = fields[0]
    return found
