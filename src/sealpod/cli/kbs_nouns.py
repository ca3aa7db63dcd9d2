# SPDX-License-Identifier: Apache-2.0
"""``sealpod kbs secret``, ``keyset``, ``policy`` and so on: the key owner's things, on the database itself.

What they are and which options they take is said in :mod:`sealpod.kbs.admin.nouns`; the same verbs asked of a
broker are :mod:`.kbs_admin_remote`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from sealpod.cli.kbs_admin_suggest import add_suggest
from sealpod.cli.kbs_admin_trial import add_test
from sealpod.cli.kbs_common import (
    Action,
    Nouns,
    add_noun,
    add_verb,
    open_database,
    print_done,
    print_list,
    print_object,
)
from sealpod.kbs.admin.noun import DONE, Noun, Object
from sealpod.kbs.admin.nouns import BY_NOUN, NOUNS

_MORE: Final = {"policy": (add_test, add_suggest)}
"""Verbs that are no noun's own business."""


def add_commands(commands: Nouns) -> None:
    """Every noun with its verbs."""
    for noun in NOUNS:
        verbs = add_noun(commands, noun.noun, noun.title)
        for verb, text in noun.help.items():
            _add_options(add_verb(verbs, verb, text, _ACTIONS.get(verb, _end)), noun, verb)
        for add in _MORE.get(noun.noun, ()):
            add(verbs)


def _add_options(parser: argparse.ArgumentParser, noun: Noun, verb: str) -> None:
    if verb == "list":
        noun.list_options(parser)
        return
    setting = noun.sets() if verb == "set" else None
    parser.add_argument(
        noun.id, metavar=noun.id.upper(), help=noun.id_help if setting is None else setting.id_help
    )
    if setting is not None:
        setting.options(parser)
    elif verb == "show" and noun.reveals:
        parser.add_argument("--reveal", action="store_true", help="print the value too, as base64")


def named(args: argparse.Namespace) -> str:
    """The id on a command line."""
    return str(getattr(args, BY_NOUN[args.noun].id))


def print_note(noun: Noun, key: str, body: Object) -> None:
    """What there is to know about a body that is set, on standard error."""
    note = noun.sets().note(body)
    if note:
        print(f"sealpod: note: {noun.noun} {key} {note}", file=sys.stderr)


def _list(args: argparse.Namespace) -> int:
    noun = BY_NOUN[args.noun]
    with open_database(args) as db:
        found = noun.verbs().list(db, **noun.chosen(args))
    print_found(args, noun, found)
    return 0


def print_found(args: argparse.Namespace, noun: Noun, found: Sequence[Object]) -> None:
    """All of a kind that were asked for."""
    if args.output == "text":
        found = [_brief(noun, one) for one in found]
    print_list(args, noun.key, found, [noun.yes_or_no.get(heading, heading) for heading in noun.header])


def _brief(noun: Noun, one: Object) -> Object:
    cells = zip(noun.header, one.items(), strict=True)
    return {
        member: item is not None if heading in noun.yes_or_no else item for heading, (member, item) in cells
    }


def _show(args: argparse.Namespace) -> int:
    noun, key = BY_NOUN[args.noun], named(args)
    verbs = noun.verbs()
    with open_database(args) as db:
        shown = verbs.show(db, key)
        if verbs.reveal is not None and args.reveal:
            from sealpod.kbs.admin.audit import command_log

            log, caller = command_log(db)
            reveal = partial(verbs.reveal, db, key)
            shown["value"] = log.revealing(caller, f"{noun.noun}:{key}", reveal).reveal().decode()
    print_object(args, shown)
    return 0


def _set(args: argparse.Namespace) -> int:
    noun, key = BY_NOUN[args.noun], named(args)
    setting = noun.sets()
    body = setting.reads(args)
    with open_database(args) as db:
        setting.write(db, key, body)
        shown = noun.verbs().show(db, key)
    print_note(noun, key, body)
    print_done(args, *setting.done(key, body, shown))
    return 0


def _end(args: argparse.Namespace) -> int:
    noun, key = BY_NOUN[args.noun], named(args)
    with open_database(args) as db:
        noun.verbs().ends[args.verb](db, key)
    done = DONE[args.verb]
    said = noun.deleted if args.verb == "delete" else done
    print_done(args, f"{noun.words} {key} {said}", {noun.id: key, done: True})
    return 0


_ACTIONS: Final[Mapping[str, Action]] = {"list": _list, "show": _show, "set": _set}
"""All other verbs end something."""
