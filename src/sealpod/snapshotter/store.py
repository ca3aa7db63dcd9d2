# SPDX-License-Identifier: Apache-2.0
"""Snapshots: their rows and their directories, kept in step.

A directory is made before its row is committed and removed after its row is gone. So a process killed at any
point leaves at most a directory without a row, which the next start removes. One lock covers rows and the
making of directories; walking and removing trees, which take long, happen outside of it.

A layer that only guests unpack has a row and no directory.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from sealpod.errors import ConflictError, NotFoundError, OperationError, UsageError, VerificationError
from sealpod.snapshotter.directories import Directories, check_root
from sealpod.snapshotter.rows import TARGET, Place, Rows, Snapshot
from sealpod.snapshotter.usage import disk_usage
from sealpod.wire.snapshotapi import ACTIVE, COMMITTED

MAX_NAME: Final = 1024
"""Bytes of a name. containerd's own have a namespace, a number, a chain of 71 and an id of at most 76."""
MAX_LABEL: Final = 4096
"""Bytes of a label's name and value together, containerd's limit."""
MAX_LABELS: Final = 128
"""Labels of a snapshot; containerd sends about five."""


class Store:
    """Snapshots below ``root``. Methods may be called from many threads; one process at a time."""

    def __init__(self, root: str, clock: Callable[[], int] = time.time_ns) -> None:
        path = check_root(root)
        self._clock = clock
        self._lock = threading.Lock()
        self._guard = _take(path)
        try:
            self.directories = Directories(path)
            self._rows = _open(os.path.join(path, "metadata.db"))
        except BaseException:
            os.close(self._guard)
            raise
        self._mend()

    def close(self) -> None:
        """Let go of the files."""
        with self._lock:
            self._rows.close()
            os.close(self._guard)

    @contextmanager
    def _change(self) -> Iterator[Rows]:
        with self._lock, self._rows.transaction():
            yield self._rows

    def get(self, name: str) -> Snapshot:
        """A snapshot. NotFoundError if there is none."""
        with self._lock:
            return self._get(name)

    def all(self) -> list[Snapshot]:
        """Every snapshot, in the order of creation."""
        with self._lock:
            return self._rows.all()

    def chain(self, name: str) -> tuple[Snapshot, list[int]]:
        """A snapshot and the numbers of those it stands upon, nearest first."""
        with self._lock:
            snapshot = self._get(name)
            return snapshot, self._rows.ancestors(snapshot)

    def place_of(self, name: str) -> Place | None:
        """Where a snapshot's files are; None for no name."""
        return self.get(name).place if name else None

    def add(self, name: str, parent: str, kind: int, place: Place, labels: Mapping[str, str]) -> None:
        """A new active snapshot or view upon a committed one, or none. ConflictError if the name is taken."""
        _check_name(name)
        kept = check_labels(labels)
        made: list[int] = []
        try:
            with self._change() as rows:
                above = self._parent(parent)
                self._check_free(name)
                number = rows.add(name, _id(above), kind, place, self._clock(), kept)
                made.append(number)
                has_files = above is not None and place is Place.HOST
                like = self.directories.files(above.id) if above is not None and has_files else ""
                self.directories.make(number, work=place is Place.HOST and kind == ACTIVE, like=like)
        except BaseException:
            for number in made:
                self.directories.remove(number)
            raise

    def add_layer(self, key: str, parent: str, labels: Mapping[str, str]) -> bool:
        """A committed layer of a guest's image, named as its label :data:`TARGET` says; False if it is there.

        Namespaces of containerd share such layers. The name is the layer's own unless another chain of
        snapshots took it; containerd finds the layer by its label and its parent.
        """
        kept = check_labels(labels)
        target = kept[TARGET]
        _check_name(target)
        _check_name(key)
        with self._change() as rows:
            above = self._parent(parent)
            if rows.layer(target, _id(above), COMMITTED) is not None:
                return False
            name = target if rows.find(target) is None else key
            self._check_free(name)
            rows.add(name, _id(above), COMMITTED, Place.GUEST, self._clock(), kept)
            return True

    def commit(self, name: str, key: str, labels: Mapping[str, str]) -> None:
        """The active snapshot ``key`` becomes the committed one ``name``, with these labels only."""
        _check_name(name)
        kept = check_labels(labels)
        active = self._active(key)
        usage = disk_usage(self.directories.files(active.id))
        with self._change() as rows:
            if self._active_locked(key).id != active.id:
                raise NotFoundError(f"snapshot {key} was replaced meanwhile", code="snapshotter.unknown")
            self._check_free(name)
            rows.commit(active.id, name, COMMITTED, self._clock(), kept, usage)

    def relabel(self, name: str, edit: Callable[[Mapping[str, str]], Mapping[str, str]]) -> Snapshot:
        """Replace the labels by what ``edit`` makes of them."""
        with self._change() as rows:
            snapshot = self._get(name)
            rows.relabel(snapshot.id, self._clock(), check_labels(edit(snapshot.labels)))
            return self._get(name)

    def remove(self, name: str) -> None:
        """Forget a snapshot and its files. VerificationError if others stand upon it."""
        with self._change() as rows:
            snapshot = self._get(name)
            if rows.has_children(snapshot):
                raise VerificationError("cannot remove snapshot with child", code="snapshotter.state")
            rows.remove(snapshot.id)
        self.directories.remove(snapshot.id)

    def usage(self, name: str) -> tuple[int, int]:
        """Bytes and inodes of a snapshot's own files: of a committed one those at its commit."""
        snapshot = self.get(name)
        if snapshot.kind != ACTIVE:
            return snapshot.size, snapshot.inodes
        return disk_usage(self.directories.files(snapshot.id))

    def clean_up(self) -> None:
        """Remove directories that are no snapshot's."""
        with self._lock:
            strangers = self.directories.strangers(self._rows.ids())
        self.directories.remove_strangers(strangers)

    def _mend(self) -> None:
        self.clean_up()
        for snapshot in self.all():
            if snapshot.kind != COMMITTED and not os.path.isdir(self.directories.files(snapshot.id)):
                self.directories.make(snapshot.id, work=snapshot.place is Place.HOST)

    def _get(self, name: str) -> Snapshot:
        found = self._rows.find(name)
        if found is None:
            raise NotFoundError(f"snapshot {name} does not exist", code="snapshotter.unknown")
        return found

    def _parent(self, name: str) -> Snapshot | None:
        if not name:
            return None
        found = self._rows.find(name)
        if found is None:
            raise NotFoundError(f"parent snapshot {name} does not exist", code="snapshotter.unknown")
        if found.kind != COMMITTED:
            raise UsageError(f"parent {name} is not a committed snapshot", code="snapshotter.parent")
        return found

    def _active(self, key: str) -> Snapshot:
        with self._lock:
            return self._active_locked(key)

    def _active_locked(self, key: str) -> Snapshot:
        found = self._get(key)
        if found.kind != ACTIVE:
            raise VerificationError(f"snapshot {key} is not active", code="snapshotter.state")
        return found

    def _check_free(self, name: str) -> None:
        if self._rows.find(name) is not None:
            raise ConflictError(f"snapshot {name} already exists", code="snapshotter.exists")


def _id(snapshot: Snapshot | None) -> int | None:
    return None if snapshot is None else snapshot.id


def check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels to keep: those with a value, as containerd has it. UsageError for too long or too many."""
    kept = {name: value for name, value in labels.items() if value}
    if len(kept) > MAX_LABELS:
        raise UsageError(f"{len(kept)} labels; at most {MAX_LABELS} are kept", code="snapshotter.label")
    for name, value in kept.items():
        if len(name.encode()) + len(value.encode()) > MAX_LABEL:
            raise UsageError(f"label {name[:60]} is longer than {MAX_LABEL} bytes", code="snapshotter.label")
    return kept


def _check_name(name: str) -> None:
    if not name or len(name.encode()) > MAX_NAME:
        raise UsageError(f"a snapshot's name has 1 to {MAX_NAME} bytes", code="snapshotter.name")


def _take(root: str) -> int:
    """Lock the root for this process, until the descriptor is closed or the process ends."""
    descriptor = os.open(
        os.path.join(root, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConflictError(
            f"another snapshotter uses {root}",
            code="snapshotter.in-use",
            remedy="end it, or choose another --root",
        ) from None
    return descriptor


def _open(path: str) -> Rows:
    try:
        return Rows(path)
    except sqlite3.Error as error:
        raise OperationError(
            f"cannot use {path}: {error}",
            code="snapshotter.database",
            remedy="if it is damaged, remove the root's content and the node's images, and pull them again",
        ) from error
