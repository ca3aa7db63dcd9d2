# SPDX-License-Identifier: Apache-2.0
"""The Snapshots service. A layer about to be unpacked is said to be there already, so that nobody fetches it.

containerd asks for an active snapshot labelled with the name it would commit it under; the answer
``already exists``, with that snapshot really there, makes it go on to the next layer. A container's own
snapshot is an empty directory: the guest has the files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Final

from sealpod.errors import ConflictError, UsageError
from sealpod.snapshotter.filters import parse
from sealpod.snapshotter.store import Snapshot, Store
from sealpod.wire.message import Message
from sealpod.wire.snapshotapi import ACTIVE, COMMITTED, MESSAGES, VIEW

TARGET: Final = "containerd.io/snapshot.ref"
PAGE: Final = 100  # snapshots in one message of a list
INODES: Final = 1


class Snapshots:
    """Requests in, answers out; errors are those of :mod:`sealpod.errors`."""

    def __init__(self, store: Store) -> None:
        self._store = store

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
            "Cleanup": lambda _request: MESSAGES.new("Empty"),
        }

    def pages(self, request: Message) -> Iterator[Message]:
        """``List``: the snapshots that pass the filters."""
        wanted = parse(request.filters)
        found = [_info(snapshot) for snapshot in self._store.all() if wanted(snapshot)]
        for start in range(0, len(found), PAGE):
            yield MESSAGES.new("ListSnapshotsResponse", info=found[start : start + PAGE])

    def _prepare(self, request: Message) -> Message:
        labels = dict(request.labels)
        target = labels.get(TARGET, "")
        if target:
            self._store.add(target, request.parent, COMMITTED, labels)
            raise ConflictError(f'target snapshot "{target}": already exists', code="snapshotter.exists")
        snapshot = self._store.add(request.key, request.parent, ACTIVE, labels)
        return MESSAGES.new("PrepareSnapshotResponse", mounts=self._bind(snapshot))

    def _view(self, request: Message) -> Message:
        snapshot = self._store.add(request.key, request.parent, VIEW, dict(request.labels))
        return MESSAGES.new("ViewSnapshotResponse", mounts=self._bind(snapshot))

    def _mounts(self, request: Message) -> Message:
        return MESSAGES.new("MountsResponse", mounts=self._bind(self._store.get(request.key)))

    def _bind(self, snapshot: Snapshot) -> list[Message]:
        mode = "rw" if snapshot.kind == ACTIVE else "ro"
        source = self._store.directory(snapshot)
        return [MESSAGES.new("Mount", type="bind", source=source, options=["rbind", mode])]

    def _commit(self, request: Message) -> Message:
        if not request.name:
            raise UsageError("a snapshot needs a name", code="snapshotter.name")
        self._store.commit(request.name, request.key, dict(request.labels))
        return MESSAGES.new("Empty")

    def _remove(self, request: Message) -> Message:
        self._store.remove(request.key)
        return MESSAGES.new("Empty")

    def _stat(self, request: Message) -> Message:
        return MESSAGES.new("StatSnapshotResponse", info=_info(self._store.get(request.key)))

    def _update(self, request: Message) -> Message:
        """Labels can be changed: all of them, or those the mask names."""
        current = self._store.get(request.info.name)
        labels, asked = dict(current.labels), dict(request.info.labels)
        paths = list(request.update_mask.paths) or ["labels"]
        for path in paths:
            field, _, name = path.partition(".")
            if field != "labels":
                raise UsageError(f"{path} of a snapshot cannot be changed", code="snapshotter.update")
            if not name:
                labels = asked
            elif name in asked:
                labels[name] = asked[name]
            else:
                labels.pop(name, None)
        return MESSAGES.new("UpdateSnapshotResponse", info=_info(self._store.relabel(current.name, labels)))

    def _usage(self, request: Message) -> Message:
        snapshot = self._store.get(request.key)
        size = sum(
            entry.stat(follow_symlinks=False).st_size for entry in os.scandir(self._store.directory(snapshot))
        )
        return MESSAGES.new("UsageResponse", size=size, inodes=INODES)


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
