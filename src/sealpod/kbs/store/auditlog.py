# SPDX-License-Identifier: Apache-2.0
"""The log of decisions read back: its head, its records in order, and whether they are whole.

:mod:`sealpod.kbs.store.audit` writes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlalchemy import Engine, Row, func, or_, select

from sealpod.errors import NotFoundError, VerificationError
from sealpod.kbs.core.audit import GENESIS, REMEDY, Entry, verify_entries
from sealpod.kbs.store import schema
from sealpod.kbs.store.engine import reading

HEAD_ID: Final = 1
"""The only row of the head's table."""
PAGE: Final = 1000
"""Records read at a time."""

_audit, _head = schema.audit, schema.audit_head


def read_head(engine: Engine) -> Entry:
    """Number and hash of the newest decision; 0 and the genesis hash when there is none."""
    statement = select(_head.c.seq, _head.c.hash).where(_head.c.id == HEAD_ID)
    with reading(engine) as connection:
        row = connection.execute(statement).one_or_none()
    return Entry(0, GENESIS, "") if row is None else head_of(row.seq, row.hash)


def head_of(number: object, digest: object) -> Entry:
    """Number and hash in the head's row.

    :raise VerificationError: ``audit.broken``: they are none, as SQLite lets anybody write.
    """
    if not isinstance(number, int) or not isinstance(digest, str):
        raise VerificationError("the log's head cannot be read", code="audit.broken", remedy=REMEDY)
    return Entry(number, digest, "")


def verify_log(engine: Engine, *, anchor: str | None = None) -> Entry:
    """Check the whole log up to its head as it is now; gives that head. Decisions may go on meanwhile.

    :raise VerificationError: as :func:`sealpod.kbs.core.audit.verify_entries`, and for records outside of
        the chain.
    """
    head = read_head(engine)
    verify_entries(read_entries(engine, upto=head.number), head, anchor=anchor)
    stray = stray_records(engine)
    if stray:
        raise VerificationError(
            f"{stray} records stand before the first or behind the newest decision",
            code="audit.broken",
            remedy=REMEDY,
        )
    return head


def stray_records(engine: Engine) -> int:
    """How many records stand before number 1 or behind the one the head names: somebody put them there, for
    `list` and `show` to tell. One statement, so that decisions made meanwhile do not count."""
    head = select(_head.c.seq).where(_head.c.id == HEAD_ID).scalar_subquery()
    outside = or_(_audit.c.seq < 1, _audit.c.seq > func.coalesce(head, 0))
    statement = select(func.count()).select_from(_audit).where(outside)
    with reading(engine) as connection:
        return int(connection.execute(statement).scalar_one())


def read_entries(engine: Engine, *, after: int = 0, upto: int | None = None) -> Iterator[Entry]:
    """Decisions in order, a page at a time; from the number behind ``after``."""
    while True:
        statement = select(_audit).where(_audit.c.seq > after).order_by(_audit.c.seq).limit(PAGE)
        if upto is not None:
            statement = statement.where(_audit.c.seq <= upto)
        with reading(engine) as connection:
            rows = connection.execute(statement).all()
        for row in rows:
            yield _entry(row)
        if len(rows) < PAGE:
            return
        after = int(rows[-1].seq)


def read_entry(engine: Engine, number: int) -> Entry:
    """One decision. :raise NotFoundError: there is none of this number."""
    for entry in read_entries(engine, after=number - 1, upto=number):
        return entry
    raise NotFoundError(
        f"no audit record {number}", code="audit.unknown", remedy="see `sealpod kbs audit list`"
    )


def newest_entries(engine: Engine, *, holding: Sequence[str], limit: int) -> list[Entry]:
    """The newest ``limit`` decisions whose text holds every one of ``holding``, oldest of them first."""
    statement = select(_audit).order_by(_audit.c.seq.desc()).limit(limit)
    for text in holding:
        statement = statement.where(_audit.c.record.contains(text, autoescape=True))
    with reading(engine) as connection:
        rows = connection.execute(statement).all()
    return [_entry(row) for row in reversed(rows)]


def _entry(row: Row[Any]) -> Entry:
    # What is no text, as SQLite lets anybody write, has no hash that fits.
    return Entry(int(row.seq), str(row.hash), str(row.record))
