# SPDX-License-Identifier: Apache-2.0
"""A database with the keys to its records: what the broker and the key owner's commands work on.

Where no key-encryption key is named, a SQLite database has one beside it: ``<file>.kek``, made with the
database and readable by its owner alone. It keeps a copy of the database from telling its secrets, not a
copy of the directory. A served database, which others administer and copy, has no such default: there a key
is named, or ``none`` is said.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from secrets import token_hex
from typing import Final

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL

from sealpod.errors import NotFoundError, OperationError, UsageError, VerificationError
from sealpod.kbs.core.sealing import KEY_SIZE
from sealpod.kbs.store.engine import POOL, open_engine, writing
from sealpod.kbs.store.keks import NONE, REMEDY, KekSources
from sealpod.kbs.store.livekeys import LiveKeyRing
from sealpod.kbs.store.sealer import RecordSealer

KEK_SUFFIX: Final = ".kek"
"""After the name of a SQLite file: the key that seals its records when no other is named."""


Transaction = Callable[[], AbstractContextManager[Connection]]


@dataclass(frozen=True, slots=True)
class Database:
    """An open database. ``sealer`` reads and writes its secret columns."""

    engine: Engine
    sealer: RecordSealer
    transaction: Transaction | None = None
    """What a change of the key owner's is made in; None makes it in a transaction of its own."""

    def writing(self) -> AbstractContextManager[Connection]:
        """A transaction, committed when the block ends well."""
        return writing(self.engine) if self.transaction is None else self.transaction()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open_database(
    url: str | URL,
    *,
    keks: KekSources | None = None,
    pool_size: int = POOL,
    migrate: bool = False,
    check_keys: bool = True,
) -> Database:
    """Open a database and the keys to its records.

    ``check_keys`` refuses when a record is sealed under a key that is not loaded: a broker would find out in
    the middle of a launch.

    :raise SealpodError: as :func:`~sealpod.kbs.store.engine.open_engine`; ``kek.*`` for keys that cannot be
        read; ``seal.key-missing``.
    """
    engine = open_engine(url, pool_size=pool_size, migrate=migrate)
    with _disposed_on_error(engine):
        db = Database(engine, open_sealer(engine, KekSources() if keks is None else keks))
        if check_keys:
            require_keys(db)
    return db


def open_sealer(engine: Engine, keks: KekSources) -> RecordSealer:
    """The keys named, or the database's own. :raise SealpodError: ``kek.*``."""
    if keks.active == NONE:
        if keks.older:
            raise UsageError(
                "older key-encryption keys without an active one", code="kek.unconfigured", remedy=REMEDY
            )
        return RecordSealer(None)
    if keks.active is None:
        keks = KekSources(_own_source(engine), keks.older)
    return RecordSealer(LiveKeyRing(keks, rng=os.urandom))


def require_keys(db: Database) -> None:
    """:raise VerificationError: ``seal.key-missing``: every key that is, and how much is sealed under it."""
    from sealpod.kbs.store.survey import survey

    loaded = frozenset() if db.sealer.keys is None else db.sealer.keys.ring().ids
    missing = survey(db.engine).missing(loaded)
    if missing:
        raise _missing(missing)


def own_key_path(engine: Engine) -> str | None:
    """Where the key of a SQLite database is when no other is named; None for served databases."""
    if engine.dialect.name != "sqlite":
        return None
    return os.path.abspath(str(engine.url.database)) + KEK_SUFFIX


def _missing(missing: dict[str, Counter[str]]) -> VerificationError:
    parts = [
        f"{name} ({', '.join(f'{noun}s: {count}' for noun, count in sorted(kinds.items()))})"
        for name, kinds in sorted(missing.items())
    ]
    return VerificationError(
        f"records are sealed under key-encryption keys that are not loaded: {'; '.join(parts)}",
        code="seal.key-missing",
        remedy="load them with --kek or --old-kek; `sealpod kbs doctor` says what needs which",
    )


def _own_source(engine: Engine) -> str:
    path = own_key_path(engine)
    if path is None:
        raise UsageError(
            "a served database needs a key-encryption key",
            code="kek.unconfigured",
            remedy=f"{REMEDY}; or say "
            "--kek none to keep secrets in plain as simple-kbs does, for a single broker",
        )
    if not os.path.exists(path):
        _make_key(engine, path)
    return f"file:{path}"


def _make_key(engine: Engine, path: str) -> None:
    from sealpod.kbs.store.survey import survey

    lost = survey(engine).missing(frozenset())
    if lost:
        # A new key would open none of what is there, and hide that the old one is gone.
        raise NotFoundError(
            f"{path} is gone, and records are sealed under {', '.join(sorted(lost))}",
            code="kek.missing",
            remedy="put the file back, or name the key with --kek",
        )
    temporary = f"{path}.{token_hex(8)}"
    text = b64encode(os.urandom(KEY_SIZE)) + b"\n"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, text)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        # Of several processes that make one at the same time the first wins, and its key is whole.
        with suppress(FileExistsError):
            os.link(temporary, path)
        _sync_directory(os.path.dirname(path))
    except OSError as error:
        raise OperationError(
            f"cannot make the key-encryption key {path}: {error.strerror}", code="kek.unwritable"
        ) from None
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Records sealed under a key that a power cut takes away would be lost.
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _disposed_on_error(engine: Engine) -> Iterator[None]:
    try:
        yield
    except BaseException:
        engine.dispose()
        raise
