# SPDX-License-Identifier: Apache-2.0
"""The Snapshots service. A guest's layer is said to be there already, so that nobody fetches it.

Before containerd fetches a layer it asks for an active snapshot to unpack it into, labelled with the name it
would commit it under. The answer ``already exists``, with that snapshot really there, makes it go on to the
next layer; it finds the snapshot by ``List``, by label and parent. A container's own snapshot is an empty
directory, but for the names of users: the guest has the files. Images of the host are kept as an ordinary
overlay snapshotter keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from sealpod.errors import ConflictError, UsageError, VerificationError
from sealpod.snapshotter import users
from sealpod.snapshotter.filters import parse
from sealpod.snapshotter.mounts import mounts
from sealpod.snapshotter.placing import Placing
from sealpod.snapshotter.rows import TARGET, Place, Snapshot
from sealpod.snapshotter.store import Store
from sealpod.snapshotter.users import ImageUsers
from sealpod.wire.message import Message
from sealpod.wire.snapshotapi import ACTIVE, COMMITTED, MESSAGES, VIEW

PAGE: Final = 100
"""Snapshots in one message of a list."""
PAGE_BYTES: Final = 256 * 1024
"""Bytes of names and labels after which a message of a list is sent; containerd takes 16 MiB."""


class Snapshots:
    """Requests in, answers out; errors are those of :mod:`sealpod.errors`."""

    def __init__(self, store: Store, placing: Placing, users: ImageUsers) -> None:
        self._store = store
        self._placing = placing
        self._users = users

    def table(self) -> dict[str, Callable[[Message], Message]]:
        """Functions by method. ``List`` is :meth:`pages`."""
        return {
            "Prepare": self._prepare,
            "View": self._view,
            "Mounts": self._mounts,
            "Commit": self._commit,
            "Remove": self._remove,
            "Stat": self._stat,
            "Update": self._update,
            "Usage": self._usage,
            "Cleanup": self._clean_up,
        }

    def pages(self, request: Message) -> Iterator[Message]:
        """``List``: the snapshots that pass the filters."""
        wanted = parse(request.filters)
        page: list[Message] = []
        size = 0
        for snapshot in self._store.all():
            if not wanted(snapshot):
                continue
            page.append(_info(snapshot))
            size += sum(len(name) + len(value) for name, value in snapshot.labels.items()) + len(
                snapshot.name
            )
            if len(page) == PAGE or size > PAGE_BYTES:
                yield MESSAGES.new("ListSnapshotsResponse", info=page)
                page, size = [], 0
        if page:
            yield MESSAGES.new("ListSnapshotsResponse", info=page)

    def _prepare(self, request: Message) -> Message:
        if self._placing.is_for_guest(request.labels):
            self._store.add_layer(request.key, request.parent, request.labels)
            target = request.labels[TARGET]
            raise ConflictError(f'target snapshot "{target}": already exists', code="snapshotter.exists")
        return MESSAGES.new("PrepareSnapshotResponse", mounts=self._add(request, ACTIVE))

    def _view(self, request: Message) -> Message:
        return MESSAGES.new("ViewSnapshotResponse", mounts=self._add(request, VIEW))

    def _add(self, request: Message, kind: int) -> list[Message]:
        parent = self._store.place_of(request.parent)
        place = self._placing.place(request.key, request.labels, parent)
        self._store.add(request.key, request.parent, kind, place, request.labels)
        if place is Place.GUEST and request.parent:
            self._name_users(request.key, request.parent)
        return self._mounts_of(request.key)

    def _name_users(self, key: str, parent: str) -> None:
        if texts := self._users.of(self._store.get(parent).labels.get(TARGET, "")):
            users.write(self._store.directories.files(self._store.get(key).id), texts)

    def _mounts(self, request: Message) -> Message:
        return MESSAGES.new("MountsResponse", mounts=self._mounts_of(request.key))

    def _mounts_of(self, key: str) -> list[Message]:
        snapshot, ancestors = self._store.chain(key)
        if snapshot.kind == COMMITTED:
            raise VerificationError(f"snapshot {key} is neither active nor a view", code="snapshotter.state")
        return mounts(snapshot, ancestors, self._store.directories)

    def _commit(self, request: Message) -> Message:
        self._store.commit(request.name, request.key, request.labels)
        return MESSAGES.new("Empty")

    def _remove(self, request: Message) -> Message:
        self._store.remove(request.key)
        return MESSAGES.new("Empty")

    def _stat(self, request: Message) -> Message:
        return MESSAGES.new("StatSnapshotResponse", info=_info(self._store.get(request.key)))

    def _update(self, request: Message) -> Message:
        paths = list(request.update_mask.paths)
        wanted = dict(request.info.labels)
        changed = self._store.relabel(request.info.name, lambda labels: edited(labels, wanted, paths))
        return MESSAGES.new("UpdateSnapshotResponse", info=_info(changed))

    def _usage(self, request: Message) -> Message:
        size, inodes = self._store.usage(request.key)
        return MESSAGES.new("UsageResponse", size=size, inodes=inodes)

    def _clean_up(self, _request: Message) -> Message:
        self._store.clean_up()
        return MESSAGES.new("Empty")


def edited(labels: Mapping[str, str], wanted: Mapping[str, str], paths: list[str]) -> dict[str, str]:
    """The labels after an update by a field mask: no path or ``labels`` replaces all, ``labels.NAME`` one."""
    result = dict(labels)
    for path in paths or ["labels"]:
        field, dot, name = path.partition(".")
        if field != "labels" or (dot and not name):
            raise UsageError(f"cannot update field {path!r} of a snapshot", code="snapshotter.update")
        if dot:
            result[name] = wanted.get(name, "")
        else:
            result = dict(wanted)
    return result


def _info(snapshot: Snapshot) -> Message:
    return MESSAGES.new(
        "Info",
        name=snapshot.name,
        parent=snapshot.parent,
        kind=snapshot.kind,
        created_at=_time(snapshot.created),
        updated_at=_time(snapshot.updated),
        labels=dict(snapshot.labels),
    )


def _time(nanoseconds: int) -> Message:
    seconds, nanos = divmod(nanoseconds, 1_000_000_000)
    return MESSAGES.new("Timestamp", seconds=seconds, nanos=nanos)
