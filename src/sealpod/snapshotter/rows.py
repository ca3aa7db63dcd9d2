# SPDX-License-Identifier: Apache-2.0
"""Snapshots as rows of one SQLite file: names, parents, kinds, labels.

A row is known by its number, which is never given twice: a directory named by it cannot be mistaken for
another snapshot's. The callers of :class:`Rows` hold the store's lock and its transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from sealpod.errors import OperationError

LAYOUT: Final = 1
"""``user_version`` of the file; another one belongs to another release."""
TARGET: Final = "containerd.io/snapshot.ref"
"""Label with the name containerd would commit a layer under."""
SCHEMA: Final = """\
CREATE TABLE IF NOT EXISTS snapshots (
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, parent INTEGER REFERENCES snapshots (id),
  kind INTEGER NOT NULL, place INTEGER NOT NULL, created INTEGER NOT NULL, updated INTEGER NOT NULL,
  labels TEXT NOT NULL, target TEXT, size INTEGER NOT NULL DEFAULT 0, inodes INTEGER NOT NULL DEFAULT 0
)
"""
INDEXES: Final = (
    "CREATE INDEX IF NOT EXISTS snapshots_parent ON snapshots (parent)",
    "CREATE INDEX IF NOT EXISTS snapshots_target ON snapshots (target)",
)
_SELECT: Final = (
    "SELECT one.id, one.name, one.parent, above.name, one.kind, one.place, one.created, one.updated,"
    " one.labels, one.size, one.inodes FROM snapshots AS one"
    " LEFT JOIN snapshots AS above ON above.id = one.parent"
)


class Place(IntEnum):
    """Where a snapshot's files are."""

    GUEST = 0
    """In the guest alone."""
    HOST = 1
    """On this host, as layers of an overlay."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One row. Times are nanoseconds since 1970; size and inodes are those at the commit."""

    id: int
    name: str
    parent_id: int | None
    parent: str
    kind: int
    place: Place
    created: int
    updated: int
    labels: Mapping[str, str]
    size: int = 0
    inodes: int = 0


class Rows:
    """The table. A change is durable once its transaction has ended."""

    def __init__(self, path: str) -> None:
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            self._open(path)
        except BaseException:
            self._database.close()
            raise

    def _open(self, path: str) -> None:
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute("PRAGMA foreign_keys=ON")
        with self.transaction():
            (layout,) = self._database.execute("PRAGMA user_version").fetchone()
            if layout not in (0, LAYOUT):
                raise OperationError(
                    f"{path} is of another release (layout {layout})",
                    code="snapshotter.layout",
                    remedy="use that release, or another --root",
                )
            for statement in (SCHEMA, *INDEXES, f"PRAGMA user_version={LAYOUT}"):
                self._database.execute(statement)

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block or nothing of it."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            # A failed commit may have ended the transaction itself (SQLite, "Response To Errors").
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def find(self, name: str) -> Snapshot | None:
        """By name."""
        return self._one("WHERE one.name=?", name)

    def layer(self, target: str, parent: int | None, kind: int) -> Snapshot | None:
        """The first of ``kind`` that carries the label :data:`TARGET` upon this parent."""
        where = "WHERE one.target=? AND one.parent IS ? AND one.kind=? ORDER BY one.id LIMIT 1"
        return self._one(where, target, parent, kind)

    def all(self) -> list[Snapshot]:
        """Every snapshot, in the order of creation."""
        return [_row(row) for row in self._database.execute(f"{_SELECT} ORDER BY one.id")]

    def ids(self) -> set[int]:
        """Numbers of all snapshots."""
        return {number for (number,) in self._database.execute("SELECT id FROM snapshots")}

    def ancestors(self, snapshot: Snapshot) -> list[int]:
        """Numbers of parent, its parent, and so on."""
        query = (
            "WITH RECURSIVE chain (id, parent, depth) AS ("
            "SELECT id, parent, 0 FROM snapshots WHERE id=? UNION ALL"
            " SELECT up.id, up.parent, depth + 1 FROM snapshots AS up JOIN chain ON up.id = chain.parent)"
            " SELECT id FROM chain ORDER BY depth"
        )
        return [number for (number,) in self._database.execute(query, (snapshot.parent_id,))]

    def has_children(self, snapshot: Snapshot) -> bool:
        """Whether any snapshot stands upon it."""
        query = "SELECT 1 FROM snapshots WHERE parent=? LIMIT 1"
        return self._database.execute(query, (snapshot.id,)).fetchone() is not None

    def add(
        self, name: str, parent: int | None, kind: int, place: Place, now: int, labels: Mapping[str, str]
    ) -> int:
        """A new row; its number."""
        columns = "name, parent, kind, place, created, updated, labels, target"
        cursor = self._database.execute(
            f"INSERT INTO snapshots ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            (name, parent, kind, place, now, now, json.dumps(dict(labels)), labels.get(TARGET)),
        )
        return int(cursor.lastrowid or 0)

    def commit(
        self, number: int, name: str, kind: int, now: int, labels: Mapping[str, str], usage: tuple[int, int]
    ) -> None:
        """Give a row its last name, kind, labels and size."""
        self._database.execute(
            "UPDATE snapshots SET name=?, kind=?, created=?, updated=?, labels=?, target=?, size=?, inodes=?"
            " WHERE id=?",
            (name, kind, now, now, json.dumps(dict(labels)), labels.get(TARGET), *usage, number),
        )

    def relabel(self, number: int, now: int, labels: Mapping[str, str]) -> None:
        """Replace the labels of a row."""
        self._database.execute(
            "UPDATE snapshots SET updated=?, labels=?, target=? WHERE id=?",
            (now, json.dumps(dict(labels)), labels.get(TARGET), number),
        )

    def remove(self, number: int) -> None:
        """Drop a row."""
        self._database.execute("DELETE FROM snapshots WHERE id=?", (number,))

    def _one(self, where: str, *values: object) -> Snapshot | None:
        row = self._database.execute(f"{_SELECT} {where}", values).fetchone()
        return None if row is None else _row(row)


def _row(row: Iterable[Any]) -> Snapshot:
    number, name, parent_id, parent, kind, place, created, updated, labels, size, inodes = row
    return Snapshot(
        *(number, name, parent_id, parent or "", kind, Place(place), created, updated),
        labels=json.loads(labels),
        size=size,
        inodes=inodes,
    )
