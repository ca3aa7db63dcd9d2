# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a key broker's database, or soon will be; reads and changes nothing.

An ``error`` refuses launches or keeps a broker from starting; a ``warning`` weakens it; a ``note`` is what
an owner may have meant otherwise. No value is told.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import Engine, select

from sealpod.errors import DecodeError, SealpodError, VerificationError
from sealpod.kbs.core.encoding import decode_base64
from sealpod.kbs.core.policy import ALLOW_ALL
from sealpod.kbs.core.sealing import sealed_under
from sealpod.kbs.store import columns, schema
from sealpod.kbs.store.admin import REFERRING
from sealpod.kbs.store.database import Database, open_sealer, own_key_path
from sealpod.kbs.store.engine import reading
from sealpod.kbs.store.keks import KekSources
from sealpod.kbs.store.keysets import list_keysets
from sealpod.kbs.store.layout import HEAD, Layout, state_of
from sealpod.kbs.store.policies import PolicyInfo, list_policies
from sealpod.kbs.store.reports import list_report_keys
from sealpod.kbs.store.sealer import RecordSealer
from sealpod.kbs.store.secrets import TABLE as SECRETS
from sealpod.kbs.store.survey import CONNECTION, survey
from sealpod.secret import SecretBytes

DEMO_KEY: Final = SecretBytes(b"RcHGava52DPvj1uoIk/NVDYlwxi0A6yyIZ8ilhEX3X4=")
"""The key simple-kbs' database image has as ``key_id1``: published, so it protects nothing."""

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: ``check`` is stable, ``subject`` what it is about, ``remedy`` what to do."""

    level: Level
    check: str
    subject: str
    text: str
    remedy: str = ""


def examine(engine: Engine, keks: KekSources) -> tuple[Finding, ...]:
    """All findings, in the order of the checks. :raise SealpodError: the database cannot be read at all."""
    findings = [*_layout(engine), *_files(engine)]
    if state_of(engine).layout is not Layout.CURRENT:
        return tuple(findings)
    sealer, troubles = _sealer(engine, keks)
    findings += troubles
    db = Database(engine, sealer)
    loaded = frozenset() if sealer.keys is None else sealer.keys.ring().ids
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        lambda: _records(engine, sealer, loaded),
        lambda: _secrets(db, loaded),
        lambda: _report_keys(db),
        lambda: _policies(db),
        lambda: _references(db),
        lambda: _keysets(db),
    )
    for check in checks:
        findings += check()
    return tuple(findings)


def _layout(engine: Engine) -> Iterator[Finding]:
    found = state_of(engine)
    if found.layout in (Layout.FOREIGN, Layout.OLD):
        yield Finding(
            "error",
            "unmigrated",
            "database",
            f"has the tables of {found.layout.value}",
            "sealpod kbs migrate up",
        )
    elif found.layout is Layout.NEW:
        yield Finding(
            "error", "too-new", "database", f"is at revision {found.revision}, this version knows {HEAD}"
        )
    elif found.layout is Layout.EMPTY:
        yield Finding(
            "note", "empty", "database", "has no tables yet; serving or setting anything makes them"
        )


def _files(engine: Engine) -> Iterator[Finding]:
    key = own_key_path(engine)
    if key is None:
        return
    path = key.removesuffix(".kek")
    for name in (path, f"{path}-wal", f"{path}-shm", key):
        try:
            mode = os.stat(name).st_mode
        except OSError:
            continue
        if mode & 0o077:
            text = f"has mode {stat.S_IMODE(mode):04o}: others than its owner have rights"
            yield Finding(
                "error" if mode & 0o007 else "warning", "permissions", name, text, f"chmod 0600 {name}"
            )
    directory = os.path.dirname(path)
    mode = os.stat(directory).st_mode
    if mode & 0o002 and not mode & stat.S_ISVTX:
        text = "everybody may exchange the files in it"
        yield Finding("error", "permissions", directory, text, f"chmod o-w {directory}")


def _sealer(engine: Engine, keks: KekSources) -> tuple[RecordSealer, list[Finding]]:
    own = own_key_path(engine)
    if keks.active is None and own is not None and not os.path.exists(own):
        # Opening would make one, and a doctor changes nothing.
        if survey(engine).missing(frozenset()):
            text = "is gone, and records are sealed under it"
            return RecordSealer(None), [
                Finding("error", "kek", own, text, "put it back, or name the key with --kek")
            ]
        return RecordSealer(None), [Finding("note", "kek", own, "is not there yet; serving makes it")]
    try:
        return open_sealer(engine, keks), []
    except SealpodError as error:
        return RecordSealer(None), [
            Finding("error", "kek", "key-encryption key", error.message, error.remedy)
        ]


def _records(engine: Engine, sealer: RecordSealer, loaded: frozenset[str]) -> Iterator[Finding]:
    found = survey(engine)
    for noun, count in sorted(found.plain.items()):
        text = f"{count} in plain: who reads the database, or a copy of it, has them"
        if noun == CONNECTION and sealer.seals:
            text = f"{text}; who can write here could have made one, so look whose they are"
        yield Finding("warning", "plain", f"{noun}s", text, "sealpod kbs seal")
    for name, counts in sorted(found.missing(loaded).items()):
        text = f"is not loaded; sealed under it: {_counts(counts)}"
        yield Finding("error", "kek-missing", f"key-encryption key {name}", text, "load it with --old-kek")
    active = None if sealer.keys is None else sealer.keys.ring().active
    for name in sorted(set(found.under) & loaded - {active}):
        text = f"is an older one; sealed under it: {_counts(found.under[name])}"
        yield Finding("note", "kek-old", f"key-encryption key {name}", text, "sealpod kbs rewrap")
    for noun, count in sorted(found.unknown.items()):
        text = f"{count} sealed in a form this version does not know"
        yield Finding("error", "form", f"{noun}s", text)


def _secrets(db: Database, loaded: frozenset[str]) -> Iterator[Finding]:
    table = schema.secrets
    with reading(db.engine) as connection:
        rows = connection.execute(
            select(table.c.secret_id, table.c.secret, table.c.polid).order_by(table.c.id)
        ).all()
    for row in rows:
        subject = f"secret {row.secret_id}"
        if row.secret is None or row.secret_id is None:
            yield Finding("warning", "empty", subject, "has no value")
            continue
        if row.polid is None:
            text = "has no policy: any launch on a trusted platform may have it"
            yield Finding("note", "open", subject, text, "sealpod kbs secret set ... --policy NAME")
        column = columns.words(row.secret)
        under = sealed_under(column)
        if under is not None and under not in loaded:
            continue  # Told once for all of that key.
        yield from _secret_value(db, subject, str(row.secret_id), column)


def _secret_value(db: Database, subject: str, name: str, column: str) -> Iterator[Finding]:
    try:
        text = db.sealer.open_text(SECRETS, name, column)
        decode_base64(text.reveal().decode(), limit=len(text))
    except VerificationError as error:
        yield Finding("error", "broken", subject, f"does not open: {error.message}", "set it again")
        return
    except (DecodeError, UnicodeDecodeError):
        text_ = "is not base64: a guest refuses every bundle with it"
        yield Finding("error", "malformed", subject, text_, "set it again")
        return
    if text == DEMO_KEY:
        yield Finding(
            "warning",
            "demo-key",
            subject,
            "is the published key of simple-kbs' demonstration",
            "make your own",
        )


def _report_keys(db: Database) -> Iterator[Finding]:
    for one in list_report_keys(db):
        if one.public is None:
            text = "does not open, or is not a P-256 key"
            yield Finding("error", "malformed", f"report key {one.id}", text, "set it again")


def _policies(db: Database) -> Iterator[Finding]:
    for one in list_policies(db):
        subject = f"policy {one.name}"
        if one.rule is None:
            text = "cannot be read: what refers to it is refused"
            yield Finding("error", "malformed", subject, text, "sealpod kbs policy set")
        elif one.rule == ALLOW_ALL:
            yield Finding("note", "open", subject, "allows every launch on a trusted platform")


def _references(db: Database) -> Iterator[Finding]:
    policies = {one.number: one for one in list_policies(db)}
    with reading(db.engine) as connection:
        for noun, table, column in REFERRING:
            statement = select(table.c[column], table.c.polid).where(table.c.polid.is_not(None))
            for name, number in connection.execute(statement.order_by(table.c.id)).all():
                yield from _reference(f"{noun} {name}", number, policies.get(number))


def _reference(subject: str, number: object, policy: PolicyInfo | None) -> Iterator[Finding]:
    if not isinstance(number, int):
        # SQLite keeps a name where a statement wrote that instead of a number.
        text = f"refers to {number!r}, which is no policy's number: it is refused"
        yield Finding("error", "dangling", subject, text, "set it with a policy, or with none")
    elif policy is None:
        text = f"refers to policy {number}, which is not there: it is refused"
        yield Finding("error", "dangling", subject, text, "set it with a policy, or with none")
    elif not policy.valid:
        text = f"refers to policy {policy.name}, which is not in force: it is refused"
        yield Finding("error", "not-in-force", subject, text, f"sealpod kbs policy set {policy.name} ...")


def _keysets(db: Database) -> Iterator[Finding]:
    with reading(db.engine) as connection:
        there = set(connection.execute(select(schema.secrets.c.secret_id)).scalars())
    for one in list_keysets(db):
        subject = f"keyset {one.id}"
        if one.secrets is None:
            yield Finding("error", "malformed", subject, "cannot be read: it is refused", "set it again")
            continue
        if not one.secrets:
            yield Finding("warning", "empty", subject, "has no secrets: a guest gets an empty bundle")
        for name in one.secrets:
            if name not in there:
                text = f"has a member that is not there, {name!r}: it is refused"
                yield Finding("error", "dangling", subject, text, f"sealpod kbs secret set {name}")


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{noun}s: {count}" for noun, count in sorted(counts.items()))
