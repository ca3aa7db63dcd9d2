# SPDX-License-Identifier: Apache-2.0
"""``sealpod kbs report-key``: keys the broker signs statements about launches with."""

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
    from sealpod.kbs.store.reports import ReportKeyInfo


def add_commands(nouns: Nouns) -> None:
    """``set``, ``list``, ``show``, ``delete``."""
    verbs = add_noun(nouns, "report-key", "Report keys: what the broker signs statements about launches with")
    setter = add_verb(verbs, "set", "Make or replace a report key; prints its public half", _set)
    setter.add_argument("id", metavar="ID", help="what a request asks for")
    source = setter.add_mutually_exclusive_group(required=True)
    source.add_argument("--generate", action="store_true", help="make a key that nobody has seen")
    source.add_argument(
        "--from-file", metavar="FILE", help="a P-256 private key, PKCS #8 in PEM or DER; - for standard input"
    )
    setter.add_argument("--policy", metavar="NAME", help="which launches may have a report signed with it")
    add_verb(verbs, "list", "List all report keys", _list)
    shower = add_verb(verbs, "show", "Show a report key's public half; the private one is never shown", _show)
    shower.add_argument("id", metavar="ID")
    deleter = add_verb(verbs, "delete", "Delete a report key", _delete)
    deleter.add_argument("id", metavar="ID")


def _set(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.reports import generate_report_key, set_report_key

    if args.generate:
        with open_database(args) as db:
            info = generate_report_key(db, args.id, policy=args.policy)
    else:
        key = read_secret_file(args.from_file)
        with open_database(args) as db:
            info = set_report_key(db, args.id, key, policy=args.policy)
    sentence = f"report key {args.id} set, policy: {info.policy or 'none'}\n{(info.public or '').rstrip()}"
    print_done(args, sentence, _object(info))
    return 0


def _list(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.reports import list_report_keys

    with open_database(args) as db:
        found = list_report_keys(db)
    objects = [_object(one) for one in found]
    if args.output == "text":
        objects = [{**one, "publicKey": one["publicKey"] is not None} for one in objects]
    print_list(args, "reportKeys", objects, ("ID", "READABLE", "POLICY", "SEALED"))
    return 0


def _show(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.reports import show_report_key

    with open_database(args) as db:
        info = show_report_key(db, args.id)
    print_object(args, _object(info))
    return 0


def _delete(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.reports import delete_report_key

    with open_database(args) as db:
        delete_report_key(db, args.id)
    print_done(args, f"report key {args.id} deleted", {"id": args.id, "deleted": True})
    return 0


def _object(info: ReportKeyInfo) -> dict[str, Any]:
    return {"id": info.id, "publicKey": info.public, "policy": info.policy, "sealed": info.sealed}
