# SPDX-License-Identifier: Apache-2.0
"""``sealpod kbs launch``: launches in progress, between their two calls."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from typing import Final

from sealpod.cli.kbs_common import (
    Nouns,
    add_noun,
    add_verb,
    open_database,
    print_done,
    print_list,
    print_object,
)

_HEADER: Final = ("ID", "POLICY", "ROOT", "CHIP", "CREATED", "EXPIRES", "EXPIRED")


def add_commands(nouns: Nouns) -> None:
    """``list``, ``show``, ``delete``."""
    verbs = add_noun(nouns, "launch", "Launches in progress: a bundle was given, the secret not yet")
    add_verb(verbs, "list", "List launches, the newest first", _list)
    shower = add_verb(verbs, "show", "Show a launch", _show)
    shower.add_argument("id", metavar="ID")
    deleter = add_verb(verbs, "delete", "End a launch: its secret request will be refused", _delete)
    deleter.add_argument("id", metavar="ID")


def _list(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.launches import list_launches

    with open_database(args) as db:
        found = list_launches(db, now=time.time())
    print_list(args, "launches", [asdict(one) for one in found], _HEADER)
    return 0


def _show(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.launches import show_launch

    with open_database(args) as db:
        info = show_launch(db, args.id, now=time.time())
    print_object(args, asdict(info))
    return 0


def _delete(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.launches import delete_launch

    with open_database(args) as db:
        delete_launch(db, args.id)
    print_done(args, f"launch {args.id} ended", {"id": args.id, "deleted": True})
    return 0
