# SPDX-License-Identifier: Apache-2.0
"""All sealed columns as one, and what in them is sealed under which key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Column, Engine, FromClause, LargeBinary, Table, case, cast, func, select

from sealpod.kbs.core.sealing import ID_DIGITS, MARK, PREFIX, is_sealed, sealed_under
from sealpod.kbs.store import schema, standing
from sealpod.kbs.store.engine import reading


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """A column with secrets: ``key`` names the row to a reader and in what the value is bound to.

    ``standing`` says of a row with ``beside`` too, selected from ``source``, what else it is bound to.
    """

    noun: str
    table: Table
    key: str
    value: str
    width: int
    beside: tuple[Column[Any], ...] = ()
    source: FromClause | None = None
    standing: Callable[[Any], bytes] = lambda _row: b""


CONNECTION: Final = "connection"
COLUMNS: Final = (
    SealedColumn("secret", schema.secrets, "secret_id", "secret", schema.MAX_SECRET_TEXT),
    SealedColumn("report key", schema.report_keypair, "key_id", "keypair", schema.MAX_SECRET_TEXT),
    SealedColumn(
        CONNECTION,
        schema.conn_bundle,
        "id",
        "symkey",
        schema.MAX_SYMKEY,
        standing.COLUMNS,
        standing.SOURCE,
        standing.of_row,
    ),
)
"""Texts, sealed or plain. Launches are sealed always, by the broker's core, and rewrapped like these."""
LAUNCHES: Final = SealedColumn("launch", schema.launches, "launch_id", "sealed_keys", 255)


@dataclass(slots=True)
class Survey:
    """How many records of each kind are in plain, and how many under each key.

    ``unknown`` are those of another version's form.
    """

    plain: Counter[str] = field(default_factory=Counter)
    under: dict[str, Counter[str]] = field(default_factory=dict)
    unknown: Counter[str] = field(default_factory=Counter)

    def missing(self, keys: frozenset[str]) -> dict[str, Counter[str]]:
        """What is sealed under other keys than these. Launches do not count: they end by themselves."""
        found = {}
        for name, counts in self.under.items():
            lasting = Counter({noun: count for noun, count in counts.items() if noun != LAUNCHES.noun})
            if name not in keys and lasting:
                found[name] = lasting
        return found


def survey(engine: Engine) -> Survey:
    """Count all records by what they are sealed under; reads no value."""
    found = Survey()
    width = len(PREFIX) + ID_DIGITS + 1
    with reading(engine) as connection:
        for one in COLUMNS:
            value = one.table.c[one.value]
            head = case((value.like(f"{MARK}%"), func.substr(value, 1, width)), else_="").label("head")
            inner = select(head).where(value.is_not(None)).subquery()
            rows = connection.execute(select(inner.c.head, func.count()).group_by(inner.c.head)).all()
            for text, count in rows:
                _count(found, one.noun, str(text), int(count))
        # Cast: SQLite keeps a text there too, which is no value of the column's type.
        sealed_keys = cast(schema.launches.c.sealed_keys, LargeBinary())
        for (sealed,) in connection.execute(select(sealed_keys)).all():
            _count(found, LAUNCHES.noun, bytes(sealed)[:width].decode("ascii", "replace"), 1)
    return found


def _count(found: Survey, noun: str, head: str, number: int) -> None:
    if not is_sealed(head):
        found.plain[noun] += number
        return
    # A complete value has more; this says only which key it names.
    name = sealed_under(f"{head}AAAA")
    if name is None:
        found.unknown[noun] += number
    else:
        found.under.setdefault(name, Counter())[noun] += number
