# SPDX-License-Identifier: Apache-2.0
"""``sealpod kbs migrate``: a simple-kbs database brought up to date, and given back."""

from __future__ import annotations

import argparse

from sealpod.cli.kbs_common import (
    Nouns,
    add_noun,
    add_verb,
    database_url,
    kek_sources,
    print_done,
    print_object,
)


def add_commands(nouns: Nouns) -> None:
    """``up``, ``down``, ``status``."""
    verbs = add_noun(nouns, "migrate", "Bring a simple-kbs database up to date, or give it back")
    add_verb(verbs, "up", "Add what this version needs beside simple-kbs' tables; changes none of them", _up)
    down = add_verb(verbs, "down", "Write all records in plain and leave simple-kbs' tables alone", _down)
    down.add_argument(
        "--discard", action="store_true", help="the audit log and the names of policies may be lost"
    )
    add_verb(verbs, "status", "Say whose tables the database has", _status)


def _up(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.engine import connect_engine
    from sealpod.kbs.store.layout import Layout, require_current, state_of

    engine = connect_engine(database_url(args))
    try:
        before = state_of(engine)
        require_current(engine, migrate=True)
        after = state_of(engine)
    finally:
        engine.dispose()
    done = "nothing to do" if before.layout is Layout.CURRENT else f"migrated from {before.layout.value}"
    value = {"before": before.layout.value, "layout": after.layout.value, "revision": after.revision}
    print_done(args, f"{done}, revision {after.revision}", value)
    return 0


def _down(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.database import Database, open_sealer
    from sealpod.kbs.store.engine import connect_engine
    from sealpod.kbs.store.layout import Layout, state_of
    from sealpod.kbs.store.migrate import downgrade

    engine = connect_engine(database_url(args))
    try:
        before = state_of(engine)
        after = before
        if before.layout in (Layout.CURRENT, Layout.OLD):
            after = downgrade(Database(engine, open_sealer(engine, kek_sources(args))), discard=args.discard)
    finally:
        engine.dispose()
    done = (
        "nothing to do" if after == before else "the database is simple-kbs' again, with all records in plain"
    )
    print_done(args, done, {"before": before.layout.value, "layout": after.layout.value})
    return 0


def _status(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.engine import connect_engine
    from sealpod.kbs.store.layout import HEAD, state_of

    engine = connect_engine(database_url(args))
    try:
        found = state_of(engine)
    finally:
        engine.dispose()
    print_object(args, {"layout": found.layout.value, "revision": found.revision, "head": HEAD})
    return 0
