# SPDX-License-Identifier: Apache-2.0
"""Which snapshots there are: names, parents, kinds, labels, in one SQLite file.

A snapshot of a guest's image has no content on this host: its directory is empty and stays so. Directories
without a row, left by a crash between the two, are removed at the start.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sealpod.errors import AccessError, ConflictError, NotFoundError, UsageError, VerificationError
from sealpod.wire.snapshotapi import ACTIVE, COMMITTED

SCHEMA: Final = """\
CREATE TABLE IF NOT EXISTS snapshots (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, parent TEXT NOT NULL, kind INTEGER NOT NULL,
  created INTEGER NOT NULL, updated INTEGER NOT NULL, labels TEXT NOT NULL)
"""
INSERT: Final = (
    "INSERT INTO snapshots (name, parent, kind, created, updated, labels) VALUES (?, ?, ?, ?, ?, ?)"
)
MAX_LABEL: Final = 4096  # bytes of name and value together, containerd's limit


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One row. Times are nanoseconds since 1970."""

    id: int
    name: str
    parent: str
    kind: int
    created: int
    updated: int
    labels: Mapping[str, str]


class Store:
    """Snapshots below ``root``. Methods may be called from many threads."""

    def __init__(self, root: str) -> None:
        os.makedirs(root, mode=0o700, exist_ok=True)
        if os.stat(root).st_uid != os.geteuid() or os.stat(root).st_mode & 0o022:
            raise AccessError(
                f"{root} can be written by others", code="snapshotter.root", remedy="chmod 700 it"
            )
        self._directories = os.path.join(root, "snapshots")
        os.makedirs(self._directories, mode=0o700, exist_ok=True)
        self._lock = threading.Lock()
        path = os.path.join(root, "metadata.db")
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute(SCHEMA)
        self._remove_orphans()

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def directory(self, snapshot: Snapshot) -> str:
        """The empty directory that stands for the snapshot's files."""
        return os.path.join(self._directories, str(snapshot.id), "fs")

    def get(self, name: str) -> Snapshot:
        """A snapshot. NotFoundError if there is none."""
        found = self._find(name)
        if found is None:
            raise NotFoundError(f"snapshot {name} does not exist: not found", code="snapshotter.unknown")
        return found

    def all(self) -> list[Snapshot]:
        """Every snapshot, in the order of creation."""
        with self._lock:
            return [_row(row) for row in self._database.execute("SELECT * FROM snapshots ORDER BY id")]

    def add(self, name: str, parent: str, kind: int, labels: Mapping[str, str]) -> Snapshot:
        """A new snapshot upon a committed one (or none). ConflictError if the name is taken."""
        if not name:
            raise UsageError("a snapshot needs a name", code="snapshotter.name")
        _check(labels)
        with self._lock:
            if parent:
                above = self._find_locked(parent)
                if above is None:
                    raise NotFoundError(
                        f"parent {parent} does not exist: not found", code="snapshotter.unknown"
                    )
                if above.kind != COMMITTED:
                    raise VerificationError(f"parent {parent} is not committed", code="snapshotter.state")
            now = time.time_ns()
            try:
                cursor = self._database.execute(
                    INSERT,
                    (name, parent, kind, now, now, json.dumps(dict(labels))),
                )
            except sqlite3.IntegrityError as exc:
                raise ConflictError(f"snapshot {name} already exists", code="snapshotter.exists") from exc
            snapshot = Snapshot(int(cursor.lastrowid or 0), name, parent, kind, now, now, dict(labels))
        os.makedirs(self.directory(snapshot), mode=0o755, exist_ok=True)
        return snapshot

    def commit(self, name: str, key: str, labels: Mapping[str, str]) -> None:
        """The active snapshot ``key`` becomes the committed one ``name``."""
        _check(labels)
        with self._lock:
            active = self._find_locked(key)
            if active is None:
                raise NotFoundError(f"snapshot {key} does not exist: not found", code="snapshotter.unknown")
            if active.kind != ACTIVE:
                raise VerificationError(f"snapshot {key} is not active", code="snapshotter.state")
            if self._find_locked(name) is not None:
                raise ConflictError(f"snapshot {name} already exists", code="snapshotter.exists")
            merged = json.dumps({**active.labels, **labels})
            self._database.execute(
                "UPDATE snapshots SET name=?, kind=?, labels=?, updated=? WHERE id=?",
                (name, COMMITTED, merged, time.time_ns(), active.id),
            )

    def relabel(self, name: str, labels: Mapping[str, str]) -> Snapshot:
        """Replace the labels."""
        _check(labels)
        self.get(name)
        with self._lock:
            self._database.execute(
                "UPDATE snapshots SET labels=?, updated=? WHERE name=?",
                (json.dumps(dict(labels)), time.time_ns(), name),
            )
        return self.get(name)

    def remove(self, name: str) -> None:
        """Forget a snapshot. VerificationError (FailedPrecondition) while others stand on it."""
        with self._lock:
            snapshot = self._find_locked(name)
            if snapshot is None:
                raise NotFoundError(f"snapshot {name} does not exist: not found", code="snapshotter.unknown")
            children = self._database.execute("SELECT 1 FROM snapshots WHERE parent=? LIMIT 1", (name,))
            if children.fetchone() is not None:
                raise VerificationError("cannot remove snapshot with child", code="snapshotter.state")
            self._database.execute("DELETE FROM snapshots WHERE id=?", (snapshot.id,))
        shutil.rmtree(os.path.dirname(self.directory(snapshot)), ignore_errors=True)

    def _find(self, name: str) -> Snapshot | None:
        with self._lock:
            return self._find_locked(name)

    def _find_locked(self, name: str) -> Snapshot | None:
        row = self._database.execute("SELECT * FROM snapshots WHERE name=?", (name,)).fetchone()
        return None if row is None else _row(row)

    def _remove_orphans(self) -> None:
        known = {str(snapshot.id) for snapshot in self.all()}
        for name in os.listdir(self._directories):
            if name not in known:
                shutil.rmtree(os.path.join(self._directories, name), ignore_errors=True)
        for snapshot in self.all():
            os.makedirs(self.directory(snapshot), mode=0o755, exist_ok=True)


def _row(row: Iterable[Any]) -> Snapshot:
    number, name, parent, kind, created, updated, labels = row
    return Snapshot(number, name, parent, kind, created, updated, json.loads(labels))


def _check(labels: Mapping[str, str]) -> None:
    for name, value in labels.items():
        if len(name.encode()) + len(value.encode()) > MAX_LABEL:
            raise UsageError(f"label {name[:60]} is longer than {MAX_LABEL} bytes", code="snapshotter.label")
