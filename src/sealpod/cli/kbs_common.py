# SPDX-License-Identifier: Apache-2.0
"""What the ``sealpod kbs`` commands share: the database option, the output option, and printing."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sealpod.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy import Engine

DATABASE_VARIABLE: Final = "SEALPOD_KBS_DATABASE"
"""Instead of ``--database``: the URL of a served database holds a password, and arguments are public."""
SCHEMA_VERSION: Final = 1

Action = Callable[[argparse.Namespace], int]
Nouns: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_noun(nouns: Nouns, name: str, text: str) -> Nouns:
    """A noun that wants a verb."""
    parser = nouns.add_parser(name, help=text, description=text)
    return parser.add_subparsers(metavar="VERB", required=True)


def add_verb(verbs: Nouns, name: str, text: str, action: Action) -> argparse.ArgumentParser:
    """A verb with the options all of them have."""
    parser = verbs.add_parser(name, help=text, description=text)
    parser.set_defaults(action=action)
    add_database_option(parser)
    parser.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="how to print (default: text)"
    )
    return parser


def add_database_option(parser: argparse.ArgumentParser) -> None:
    """``--database``, or the environment's."""
    parser.add_argument(
        "--database",
        metavar="URL",
        help=f"the key broker's database, for instance sqlite:////var/lib/sealpod/kbs.db "
        f"(default: ${DATABASE_VARIABLE})",
    )


def database_url(args: argparse.Namespace) -> str:
    """:raise UsageError: none was given."""
    url = args.database or os.environ.get(DATABASE_VARIABLE)
    if not url:
        raise UsageError(
            "no database given",
            code="usage.database",
            remedy=f"Give --database sqlite:////ABSOLUTE/PATH.db or set {DATABASE_VARIABLE}",
        )
    return str(url)


@contextmanager
def open_database(args: argparse.Namespace) -> Iterator[Engine]:
    """The database, made if it is not there, closed after the block."""
    from sealpod.kbs.store.engine import open_engine

    engine = open_engine(database_url(args))
    try:
        yield engine
    finally:
        engine.dispose()


def print_list(
    args: argparse.Namespace, key: str, objects: Sequence[dict[str, Any]], header: Sequence[str]
) -> None:
    """Many objects: one line each under a header, or ``{"schemaVersion": 1, key: [...]}``."""
    if args.output == "json":
        print(json.dumps({"schemaVersion": SCHEMA_VERSION, key: list(objects)}))
        return
    rows = [tuple(_cell(value) for value in one.values()) for one in objects]
    table = [tuple(header), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_object(args: argparse.Namespace, value: dict[str, Any]) -> None:
    """One object: ``key: value`` lines, or JSON with its ``schemaVersion``."""
    if args.output == "json":
        print(json.dumps({"schemaVersion": SCHEMA_VERSION, **value}))
        return
    for key, item in value.items():
        print(f"{key}: {_cell(item)}")


def print_done(args: argparse.Namespace, sentence: str, value: dict[str, Any]) -> None:
    """What a command did: a sentence, or JSON."""
    if args.output == "json":
        print_object(args, value)
    else:
        print(sentence)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value) or "-"
    return str(value)
