# SPDX-License-Identifier: Apache-2.0
"""Keysets: which secrets a guest gets as one bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sealpod.kbs.admin.bodies import POLICY
from sealpod.kbs.admin.noun import Noun, Object, Setting, Verbs
from sealpod.kbs.admin.schema import array, nullable, structure, text

if TYPE_CHECKING:
    import argparse

    from sealpod.kbs.store.database import Database


def _verbs() -> Verbs:
    from sealpod.kbs.store import keysets

    return Verbs.of(keysets.list_keysets, keysets.show_keyset, {"delete": keysets.delete_keyset})


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--secret",
        metavar="ID",
        dest="secrets",
        action="extend",
        nargs="+",
        required=True,
        help="a secret that belongs to it; several may follow, or repeat the option",
    )
    parser.add_argument(
        "--policy", metavar="NAME", help="who may have it, beside what the policies of its secrets say"
    )


def _reads(args: argparse.Namespace) -> Object:
    return {"secrets": args.secrets, "policy": args.policy}


def _write(db: Database, key: str, body: Object) -> None:
    from sealpod.kbs.store.keysets import set_keyset

    set_keyset(db, key, body["secrets"], policy=body.get("policy"))


def _done(key: str, _body: Object, shown: Object) -> tuple[str, Object]:
    members = ", ".join(shown["secrets"] or ())
    return f"keyset {key} set: {members}, policy: {shown['policy'] or 'none'}", shown


KEYSET: Final = Noun(
    name="keysets",
    noun="keyset",
    title="Keysets: secrets a guest gets as one bundle",
    about="secrets a guest gets as one bundle",
    help={
        "set": "Make or replace a keyset",
        "list": "List all keysets",
        "show": "Show a keyset",
        "delete": "Delete a keyset; its secrets stay",
    },
    shown=structure(
        {
            "id": text("what a launch asks for", most=50),
            # Null says that the row cannot be read; such a keyset is never released.
            "secrets": nullable(array(text("key id"), "its secrets; null when the row cannot be read")),
            "policy": POLICY,
        }
    ),
    header=("ID", "SECRETS", "POLICY"),
    verbs=_verbs,
    setting=Setting(
        structure(
            {"secrets": {**array(text("key id"), "its secrets"), "minItems": 1}, "policy": POLICY}, "secrets"
        ),
        _options,
        _reads,
        _write,
        _done,
        id_help="what a launch asks for, for instance KEYSET-1",
    ),
    deletes="Delete it; its secrets stay",
)
