# SPDX-License-Identifier: Apache-2.0
"""Connections: guests that may ask online. They come about by launches, and are withdrawn here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sealpod.kbs.admin.bodies import ROOT, TIME, WORD
from sealpod.kbs.admin.noun import Noun, Object, Verbs
from sealpod.kbs.admin.schema import flag, nullable, number, structure, text

if TYPE_CHECKING:
    import argparse

DEFAULT_LIMIT: Final = 100
"""Connections that the command lists."""


def _verbs() -> Verbs:
    from sealpod.kbs.store import connections

    ends = {"revoke": connections.revoke_connection, "delete": connections.delete_connection}
    return Verbs.of(connections.list_connections, connections.show_connection, ends)


def _list_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="revoked ones too")
    parser.add_argument(
        "--limit", metavar="N", type=int, default=DEFAULT_LIMIT, help=f"how many (default: {DEFAULT_LIMIT})"
    )


def _chosen(args: argparse.Namespace) -> Object:
    return {"active": None if args.all else True, "limit": max(1, args.limit)}


CONNECTION: Final = Noun(
    name="connections",
    noun="connection",
    title="Connections: guests that may ask online",
    about="guests that may ask online",
    help={
        "list": "List connections, the newest first",
        "show": "Show a connection",
        "revoke": "Refuse a guest from now on, under all connections of its launch; their rows stay",
        "delete": "Forget the connections of a guest's launch altogether",
    },
    id_help="the client id",
    shown=structure(
        {
            "id": text("client id", most=512),
            "active": flag("whether its guest is answered; false once it was withdrawn"),
            "created": TIME,
            "root": ROOT,
            "policy": nullable(WORD),
            "firmware": nullable(text("API major.minor.build", most=40)),
            "digest": nullable(text("launch digest, base64", most=512)),
            "description": nullable(text("what the host called the launch", most=512)),
            "messages": nullable(number("replies so far", 1 << 62)),
        }
    ),
    header=("ID", "ACTIVE", "CREATED", "ROOT", "POLICY", "FIRMWARE", "DIGEST", "DESCRIPTION", "MESSAGES"),
    verbs=_verbs,
    list_options=_list_options,
    chosen=_chosen,
    # The row stays as a record; retention removes it.
    api_end="revoke",
    deletes="Withdraw it: its guest is not answered any more",
)
