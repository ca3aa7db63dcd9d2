# SPDX-License-Identifier: Apache-2.0
"""Bringing every sealed record under the active key, or into plain.

A walk goes through a table by its primary key, a page at a time, and writes a record only if it still is
what was read (compare and swap), so the broker may serve meanwhile, a record that somebody set in between
stays theirs, and a walk that was killed is simply walked again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import BindParameter, Engine, LargeBinary, Table, bindparam, cast, select, update
from sqlalchemy.sql.elements import ColumnElement

from sealpod.errors import OperationError, SealpodError, UsageError, VerificationError
from sealpod.kbs.core.sealing import is_sealed, sealed_under
from sealpod.kbs.store.database import Database
from sealpod.kbs.store.engine import reading, writing
from sealpod.kbs.store.failures import translated
from sealpod.kbs.store.survey import COLUMNS, LAUNCHES, SealedColumn
from sealpod.secret import SecretBytes

PAGE: Final = 200
"""Records read, and at most written, in one transaction: milliseconds of a lock."""

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Walked:
    """What a walk did: records written, left because somebody changed them meanwhile, and not possible.

    ``remains`` says that a SQLite file still holds former plain text in pages it does not use.
    """

    written: Counter[str] = field(default_factory=Counter)
    overtaken: int = 0
    failed: list[tuple[str, str, SealpodError]] = field(default_factory=list)
    """Noun, id and why."""
    remains: bool = False


def seal_plain(db: Database) -> Walked:
    """Seal what an old tool wrote in plain.

    :raise UsageError: ``kek.none``: there is nothing to seal it with.
    """
    if not db.sealer.seals:
        raise UsageError(
            "no key-encryption key is loaded", code="kek.unconfigured", remedy="give one with --kek"
        )

    def seal(column: SealedColumn, found: Found) -> str | None:
        if is_sealed(found.text):
            return None
        plain = SecretBytes(found.text.encode("utf-8", "surrogatepass"))
        name = column.table.name
        return db.sealer.seal_text(name, found.key, plain, width=column.width, standing=found.standing)

    walked = _walk(db.engine, seal)
    if db.engine.dialect.name == "sqlite":
        walked.remains = not _wipe(db.engine)
    return walked


def _wipe(engine: Engine) -> bool:
    """Rewrite a SQLite file, so that neither its log nor its free pages hold what was there before."""
    try:
        with translated(), engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM")
            row = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").first()
            return row is not None and row[0] == 0  # 1 says that a reader was in the way.
    except SealpodError as error:
        _logger.warning("what was in plain is still in unused pages of the file: %s", error.message)
        return False


def rewrap(db: Database) -> Walked:
    """Wrap every sealed record under the active key that is under an older one.

    :raise UsageError: ``kek.unconfigured``: there is no active key.
    """
    keys = db.sealer.keys
    if keys is None:
        raise UsageError(
            "no key-encryption key is loaded", code="kek.unconfigured", remedy="give one with --kek"
        )
    ring = keys.ring()

    def wrap(_column: SealedColumn, found: Found) -> str | None:
        if not is_sealed(found.text) or sealed_under(found.text) == ring.active:
            return None
        return ring.rewrap(found.text.encode("utf-8", "surrogatepass")).decode("ascii")

    walked = _walk(db.engine, wrap)
    _walk_table(db.engine, LAUNCHES, wrap, walked)
    return walked


def unseal(db: Database) -> Walked:
    """Write every sealed record in plain, for simple-kbs to read; launches stay.

    :raise VerificationError: one cannot be opened. :raise OperationError: one was changed all the time.
    """

    def plain(column: SealedColumn, found: Found) -> str | None:
        if not is_sealed(found.text):
            return None
        name = column.table.name
        opened = db.sealer.open_text(name, found.key, found.text, standing=found.standing)
        return opened.reveal().decode("utf-8", "surrogatepass")

    walked = _walk(db.engine, plain)
    for noun, key, error in walked.failed:
        raise VerificationError(
            f"{noun} {key!r} cannot be unsealed: {error.message}", code=error.code, remedy=error.remedy
        ) from error
    if walked.overtaken:
        raise OperationError(
            f"{walked.overtaken} records were changed meanwhile",
            code="seal.overtaken",
            remedy="stop the key broker, then do it again",
        )
    return walked


@dataclass(frozen=True, slots=True)
class Found:
    """A record as it was read: the number and the id of its row, its text, and what it is bound to."""

    number: Any
    key: str
    text: str
    standing: bytes


Change = Callable[[SealedColumn, Found], str | None]
"""From a record to what its text becomes; None leaves it."""


def _walk(engine: Engine, change: Change) -> Walked:
    walked = Walked()
    for one in COLUMNS:
        _walk_table(engine, one, change, walked)
    return walked


def _walk_table(engine: Engine, one: SealedColumn, change: Change, walked: Walked) -> None:
    for page in _pages(engine, one):
        swaps = []
        for found in page:
            try:
                becomes = change(one, found)
            except SealpodError as error:
                walked.failed.append((one.noun, found.key, error))
                continue
            if becomes is not None:
                swaps.append((found.number, found.text, becomes))
        if swaps:
            _swap(engine, one, swaps, walked)


def _swap(engine: Engine, one: SealedColumn, swaps: list[tuple[Any, str, str]], walked: Walked) -> None:
    identity, value = _identity(one.table), one.table.c[one.value]
    # Built once for all rows: building a statement costs more than running it.
    unchanged = exactly(value, bindparam("before", type_=value.type), engine.dialect.name)
    statement = (
        update(one.table)
        .where(identity == bindparam("number"), unchanged)
        .values({one.value: bindparam("becomes")})
    )
    with writing(engine) as connection:
        counts = [
            connection.execute(
                statement,
                {"number": number, "before": _stored(one, before), "becomes": _stored(one, becomes)},
            ).rowcount
            for number, before, becomes in swaps
        ]
    # Counted after the commit: before it nothing is written.
    walked.written[one.noun] += sum(counts)
    walked.overtaken += len(counts) - sum(counts)


def exactly(column: ColumnElement[Any], value: BindParameter[Any], dialect: str) -> ColumnElement[bool]:
    """``column`` holds these very characters; MySQL's ``=`` may overlook case and spaces at the end."""
    # A cast rather than the operator BINARY, which MySQL means to drop.
    return column == (cast(value, LargeBinary()) if dialect in ("mysql", "mariadb") else value)


def _pages(engine: Engine, one: SealedColumn) -> Iterator[list[Found]]:
    identity, key, value = _identity(one.table), one.table.c[one.key], one.table.c[one.value]
    source = one.table if one.source is None else one.source
    # Cast: SQLite keeps a text there too, which is no value of the column's type.
    shown = cast(value, LargeBinary()) if one is LAUNCHES else value
    wanted = select(identity, key, shown, *one.beside).select_from(source)
    statement = wanted.where(value.is_not(None)).order_by(identity).limit(PAGE)
    last: Any = None
    while True:
        with reading(engine) as connection:
            rows = connection.execute(statement if last is None else statement.where(identity > last)).all()
        yield [Found(row[0], str(row[1]), _text(row[2]), one.standing(row)) for row in rows]
        if len(rows) < PAGE:
            return
        last = rows[-1][0]


def _identity(table: Table) -> ColumnElement[Any]:
    return next(iter(table.primary_key.columns))


def _text(value: object) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


def _stored(one: SealedColumn, text: str) -> str | bytes:
    return text.encode("ascii", "replace") if one is LAUNCHES else text
