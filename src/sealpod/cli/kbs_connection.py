# SPDX-License-Identifier: Apache-2.0
"""``sealpod kbs connection``: guests that may ask online."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any, Final

from sealpod.cli.kbs_common import (
    Nouns,
    add_noun,
    add_verb,
    open_database,
    print_done,
    print_list,
    print_object,
)

DEFAULT_LIMIT: Final = 100
_HEADER: Final = (
    "ID",
    "ACTIVE",
    "CREATED",
    "ROOT",
    "POLICY",
    "FIRMWARE",
    "DIGEST",
    "DESCRIPTION",
    "MESSAGES",
)


def add_commands(nouns: Nouns) -> None:
    """``list``, ``show``, ``revoke``, ``delete``."""
    verbs = add_noun(nouns, "connection", "Connections: guests that may ask online")
    lister = add_verb(verbs, "list", "List connections, the newest first", _list)
    lister.add_argument("--all", action="store_true", help="revoked ones too")
    lister.add_argument(
        "--limit", metavar="N", type=int, default=DEFAULT_LIMIT, help=f"how many (default: {DEFAULT_LIMIT})"
    )
    for name, text, action in (
        ("show", "Show a connection", _show),
        ("revoke", "Refuse a guest from now on; its row stays", _revoke),
        ("delete", "Forget a connection altogether", _delete),
    ):
        add_verb(verbs, name, text, action).add_argument("id", metavar="ID", help="the client id")


def _list(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.connections import list_connections

    with open_database(args) as db:
        found = list_connections(db, active=None if args.all else True, limit=max(1, args.limit))
    print_list(args, "connections", [_object(one) for one in found], _HEADER)
    return 0


def _show(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.connections import show_connection

    with open_database(args) as db:
        info = show_connection(db, args.id)
    print_object(args, _object(info))
    return 0


def _revoke(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.connections import revoke_connection

    with open_database(args) as db:
        revoke_connection(db, args.id)
    print_done(args, f"connection {args.id} revoked", {"id": args.id, "revoked": True})
    return 0


def _delete(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.connections import delete_connection

    with open_database(args) as db:
        delete_connection(db, args.id)
    print_done(args, f"connection {args.id} deleted", {"id": args.id, "deleted": True})
    return 0


def _object(info: Any) -> dict[str, Any]:
    return asdict(info)
