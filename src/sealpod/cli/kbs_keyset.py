# SPDX-License-Identifier: Apache-2.0
"""``sealpod kbs keyset``: which secrets a guest gets as one bundle."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from sealpod.cli.kbs_common import (
    Nouns,
    add_noun,
    add_verb,
    open_database,
    print_done,
    print_list,
    print_object,
)

if TYPE_CHECKING:
    from sealpod.kbs.store.keysets import KeysetInfo


def add_commands(nouns: Nouns) -> None:
    """``set``, ``list``, ``show``, ``delete``."""
    verbs = add_noun(nouns, "keyset", "Keysets: secrets a guest gets as one bundle")
    setter = add_verb(verbs, "set", "Make or replace a keyset", _set)
    setter.add_argument("id", metavar="ID", help="what a launch asks for, for instance KEYSET-1")
    setter.add_argument(
        "--secret",
        metavar="ID",
        dest="secrets",
        action="extend",
        nargs="+",
        required=True,
        help="a secret that belongs to it; several may follow, or repeat the option",
    )
    setter.add_argument(
        "--policy", metavar="NAME", help="who may have it, beside what the policies of its secrets say"
    )
    add_verb(verbs, "list", "List all keysets", _list)
    shower = add_verb(verbs, "show", "Show a keyset", _show)
    shower.add_argument("id", metavar="ID")
    deleter = add_verb(verbs, "delete", "Delete a keyset; its secrets stay", _delete)
    deleter.add_argument("id", metavar="ID")


def _set(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.keysets import set_keyset, show_keyset

    with open_database(args) as db:
        set_keyset(db, args.id, args.secrets, policy=args.policy)
        info = show_keyset(db, args.id)
    members = ", ".join(info.secrets or ())
    print_done(args, f"keyset {args.id} set: {members}, policy: {info.policy or 'none'}", _object(info))
    return 0


def _list(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.keysets import list_keysets

    with open_database(args) as db:
        found = list_keysets(db)
    print_list(args, "keysets", [_object(one) for one in found], ("ID", "SECRETS", "POLICY"))
    return 0


def _show(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.keysets import show_keyset

    with open_database(args) as db:
        info = show_keyset(db, args.id)
    print_object(args, _object(info))
    return 0


def _delete(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.keysets import delete_keyset

    with open_database(args) as db:
        delete_keyset(db, args.id)
    print_done(args, f"keyset {args.id} deleted", {"id": args.id, "deleted": True})
    return 0


def _object(info: KeysetInfo) -> dict[str, Any]:
    # null says that the row cannot be read; such a keyset is never released.
    secrets = None if info.secrets is None else list(info.secrets)
    return {"id": info.id, "secrets": secrets, "policy": info.policy}
