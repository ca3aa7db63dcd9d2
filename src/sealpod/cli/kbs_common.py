# SPDX-License-Identifier: Apache-2.0
"""What the ``sealpod kbs`` commands share: options of the database and its keys, of output, and printing."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sealpod.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from sealpod.kbs.store.database import Database
    from sealpod.kbs.store.keks import KekSources

DATABASE_VARIABLE: Final = "SEALPOD_KBS_DATABASE"
"""Instead of ``--database``: the URL of a served database holds a password, and arguments are public."""
KEK_VARIABLE: Final = "SEALPOD_KBS_KEK"
OLD_KEKS_VARIABLE: Final = "SEALPOD_KBS_OLD_KEKS"
SCHEMA_VERSION: Final = 1
MAX_CELL: Final = 80
"""Characters of a column in a table for people; ``show`` and JSON have all of them."""

Action = Callable[[argparse.Namespace], int]
Nouns: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_noun(nouns: Nouns, name: str, text: str) -> Nouns:
    """A noun that wants a verb."""
    parser = nouns.add_parser(name, help=text, description=text)
    parser.set_defaults(noun=name)
    return parser.add_subparsers(metavar="VERB", required=True)


def add_verb(verbs: Nouns, name: str, text: str, action: Action) -> argparse.ArgumentParser:
    """A verb with the options all of them have."""
    parser = verbs.add_parser(name, help=text, description=text)
    parser.set_defaults(action=action, verb=name)
    add_database_option(parser)
    add_server_options(parser)
    parser.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="how to print (default: text)"
    )
    return parser


def add_database_option(parser: argparse.ArgumentParser) -> None:
    """``--database``, ``--kek`` and ``--old-kek``, or the environment's."""
    parser.add_argument(
        "--database",
        metavar="URL",
        help=f"the key broker's database, for instance sqlite:////var/lib/sealpod/kbs.db "
        f"(default: ${DATABASE_VARIABLE}, else simple-kbs' KBS_DB_TYPE and so on)",
    )
    parser.add_argument(
        "--kek",
        metavar="SOURCE",
        help="the key-encryption key that seals records: file:PATH, env:NAME, `command:PROGRAM ARGUMENT ...` "
        f"or none (default: ${KEK_VARIABLE}, else for SQLite the file beside the database ending in .kek)",
    )
    parser.add_argument(
        "--old-kek",
        dest="old_keks",
        metavar="SOURCE",
        action="append",
        default=[],
        help="a key-encryption key that only opens what was sealed under it before; may be repeated "
        f"(default: ${OLD_KEKS_VARIABLE}, one per line)",
    )


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """``--server`` and what goes with it."""
    group = parser.add_argument_group("instead of the database")
    group.add_argument("--server", metavar="URL", help="ask a broker's admin API there")
    group.add_argument("--token-file", metavar="FILE", help="its bearer token, this user's alone (chmod 600)")
    group.add_argument(
        "--ca", metavar="FILE", help="PEM authorities of its certificate (default: the system's)"
    )
    group.add_argument("--client-cert", metavar="FILE", help="PEM certificate and key to show it")


def database_url(args: argparse.Namespace) -> str | URL:
    """:raise UsageError: none was given."""
    url = args.database or os.environ.get(DATABASE_VARIABLE)
    if url:
        return str(url)
    from sealpod.kbs.store.environment import url_from_environment

    from_environment = url_from_environment(os.environ)
    if from_environment is None:
        raise UsageError(
            "no database given",
            code="usage.database",
            remedy=f"give --database sqlite:////ABSOLUTE/PATH.db or set {DATABASE_VARIABLE}",
        )
    return from_environment


def refuse_mixed_options(args: argparse.Namespace) -> None:
    """A verb works on the database or asks a server; a database's variables may be there anyhow.

    :raise UsageError: options of the one beside the other.
    """
    of_server = {"--token-file": args.token_file, "--ca": args.ca, "--client-cert": args.client_cert}
    of_database = {"--database": args.database, "--kek": args.kek, "--old-kek": args.old_keks}
    other, text = (
        (of_database, "{} and --server do not go together")
        if args.server is not None
        else (of_server, "{} goes with --server")
    )
    for option, value in other.items():
        if value:
            raise UsageError(
                text.format(option),
                code="usage.server",
                remedy="name the database to work on it itself, or the server to ask its broker",
            )


def kek_sources(args: argparse.Namespace) -> KekSources:
    """What options say about key-encryption keys, else the environment."""
    from sealpod.kbs.store.keks import KekSources

    found = KekSources.from_environment(os.environ)
    return KekSources(args.kek or found.active, tuple(args.old_keks) or found.older)


@contextmanager
def open_database(args: argparse.Namespace, *, check_keys: bool = False) -> Iterator[Database]:
    """The database with the keys to its records, made if it is not there, closed after the block."""
    from sealpod.kbs.store.database import open_database

    # A command meets one record or a few, and says so if it cannot open one.
    with open_database(database_url(args), keks=kek_sources(args), check_keys=check_keys) as db:
        yield db


def print_list(
    args: argparse.Namespace, key: str, objects: Sequence[dict[str, Any]], header: Sequence[str]
) -> None:
    """Many objects: one line each under a header, or ``{"schemaVersion": 1, key: [...]}``."""
    if args.output == "json":
        print(json.dumps({"schemaVersion": SCHEMA_VERSION, key: list(objects)}, default=str))
        return
    rows = [_row([_cell(value) for value in one.values()]) for one in objects]
    table = [list(header), *rows]
    widths = [min(MAX_CELL, max(len(row[column]) for row in table)) for column in range(len(header))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_object(args: argparse.Namespace, value: dict[str, Any]) -> None:
    """One object: ``key: value`` lines, or JSON with its ``schemaVersion``."""
    if args.output == "json":
        print(json.dumps({"schemaVersion": SCHEMA_VERSION, **value}, default=str))
        return
    for key, item in value.items():
        print(f"{key}: {_cell(item)}")


def print_done(args: argparse.Namespace, sentence: str, value: dict[str, Any]) -> None:
    """What a command did: a sentence, or JSON."""
    if args.output == "json":
        print_object(args, value)
    else:
        print(sentence)


def _row(cells: list[str]) -> list[str]:
    # The first is the id that other verbs take: it stays whole, and only its own row is out of line.
    return cells[:1] + [cell if len(cell) <= MAX_CELL else cell[: MAX_CELL - 3] + "..." for cell in cells[1:]]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value) or "-"
    return str(value)
