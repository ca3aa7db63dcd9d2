# SPDX-License-Identifier: Apache-2.0
"""``sealpod kbs secret``: the keys the broker releases one by one or in keysets."""

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
    read_secret_file,
)

if TYPE_CHECKING:
    from sealpod.kbs.store.secrets import SecretInfo


def add_commands(nouns: Nouns) -> None:
    """``set``, ``list``, ``show``, ``delete``."""
    verbs = add_noun(nouns, "secret", "Secrets: keys that images are encrypted with")
    setter = add_verb(verbs, "set", "Make or replace a secret", _set)
    setter.add_argument("id", metavar="ID", help="what requests and images call it, for instance key_id1")
    setter.add_argument(
        "--from-file", metavar="FILE", required=True, help="the raw bytes of the secret; - for standard input"
    )
    setter.add_argument(
        "--policy",
        metavar="NAME",
        help="who may have it; without this option nothing but the broker's default",
    )
    add_verb(verbs, "list", "List all secrets, without their values", _list)
    shower = add_verb(verbs, "show", "Show a secret", _show)
    shower.add_argument("id", metavar="ID")
    shower.add_argument("--reveal", action="store_true", help="print the value too, as base64")
    deleter = add_verb(verbs, "delete", "Delete a secret", _delete)
    deleter.add_argument("id", metavar="ID")


def _set(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.secrets import set_secret

    value = read_secret_file(args.from_file)
    with open_database(args) as db:
        set_secret(db, args.id, value, policy=args.policy)
    sentence = f"secret {args.id} set, {len(value)} bytes, policy: {args.policy or 'none'}"
    print_done(args, sentence, {"id": args.id, "bytes": len(value), "policy": args.policy})
    return 0


def _list(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.secrets import list_secrets

    with open_database(args) as db:
        found = list_secrets(db)
    print_list(args, "secrets", [_object(one) for one in found], ("ID", "BYTES", "POLICY", "SEALED"))
    return 0


def _show(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.secrets import reveal_secret, show_secret

    with open_database(args) as db:
        shown = _object(show_secret(db, args.id))
        if args.reveal:
            from sealpod.kbs.server.admin.audit import command_log

            log, caller = command_log(db)
            with log.recorded("AdminReveal", caller, f"secret:{args.id}"):
                shown["value"] = reveal_secret(db, args.id).reveal().decode()
    print_object(args, shown)
    return 0


def _delete(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.secrets import delete_secret

    with open_database(args) as db:
        delete_secret(db, args.id)
    print_done(args, f"secret {args.id} deleted", {"id": args.id, "deleted": True})
    return 0


def _object(info: SecretInfo) -> dict[str, Any]:
    return {"id": info.id, "bytes": info.size, "policy": info.policy, "sealed": info.sealed}
