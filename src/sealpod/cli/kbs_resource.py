# SPDX-License-Identifier: Apache-2.0
"""``sealpod kbs resource``: files the broker releases by their type."""

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
    from sealpod.kbs.store.resources import ResourceInfo


def add_commands(nouns: Nouns) -> None:
    """``set``, ``list``, ``show``, ``delete``."""
    verbs = add_noun(nouns, "resource", "Resources: files that are released by their type")
    setter = add_verb(verbs, "set", "Make or replace a resource", _set)
    setter.add_argument("id", metavar="ID", help="what it is called here")
    setter.add_argument(
        "--type",
        dest="kind",
        metavar="TYPE",
        required=True,
        help="what a request asks for, for instance Policy or default/security-policy/test",
    )
    setter.add_argument("--path", required=True, help="its file, below the directory the broker is given")
    setter.add_argument("--policy", metavar="NAME", help="who may have it")
    add_verb(verbs, "list", "List all resources in the order in which requests find them", _list)
    shower = add_verb(verbs, "show", "Show a resource", _show)
    shower.add_argument("id", metavar="ID")
    deleter = add_verb(verbs, "delete", "Delete a resource; its file stays", _delete)
    deleter.add_argument("id", metavar="ID")


def _set(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.resources import set_resource, show_resource

    with open_database(args) as db:
        set_resource(db, args.id, kind=args.kind, path=args.path, policy=args.policy)
        info = show_resource(db, args.id)
    sentence = f"resource {args.id} set: {info.type} is {info.path}, policy: {info.policy or 'none'}"
    print_done(args, sentence, _object(info))
    return 0


def _list(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.resources import list_resources

    with open_database(args) as db:
        found = list_resources(db)
    print_list(args, "resources", [_object(one) for one in found], ("ID", "TYPE", "PATH", "POLICY", "FIRST"))
    return 0


def _show(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.resources import show_resource

    with open_database(args) as db:
        info = show_resource(db, args.id)
    print_object(args, _object(info))
    return 0


def _delete(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.resources import delete_resource

    with open_database(args) as db:
        delete_resource(db, args.id)
    print_done(args, f"resource {args.id} deleted", {"id": args.id, "deleted": True})
    return 0


def _object(info: ResourceInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "type": info.type,
        "path": info.path,
        "policy": info.policy,
        "first": info.first,
    }
