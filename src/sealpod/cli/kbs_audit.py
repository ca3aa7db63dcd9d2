# SPDX-License-Identifier: Apache-2.0
"""``sealpod kbs audit``: which guest got which secret, on what evidence; and whether the log is whole."""

from __future__ import annotations

import argparse
import json
import re
import sys
from typing import TYPE_CHECKING, Any, Final

from sealpod.cli.kbs_common import (
    SCHEMA_VERSION,
    Nouns,
    add_noun,
    add_verb,
    open_database,
    print_done,
    print_list,
    print_object,
)
from sealpod.errors import UsageError

if TYPE_CHECKING:
    from sealpod.kbs.core.audit import Entry
    from sealpod.kbs.store.database import Database

DEFAULT_LIMIT: Final = 50
"""Records `list` shows."""

CALLS: Final = ("GetBundle", "GetSecret", "GetOnlineSecret", "AdminSet", "AdminDelete", "AdminReveal")
"""What hosts and guests ask, and what an owner does."""

_HASH: Final = re.compile(r"[0-9a-f]{64}")


def add_commands(nouns: Nouns) -> None:
    """``verify``, ``list``, ``show``, ``export``."""
    verbs = add_noun(nouns, "audit", "Decisions: who got what, when and why; and whether the log is whole")
    verifier = add_verb(
        verbs, "verify", "Check that no record was changed, removed or added; print number and hash", _verify
    )
    verifier.add_argument(
        "--expect-head",
        metavar="HASH",
        help="a hash that an earlier verify printed, or that stands in the broker's log: it must still be "
        "there, which shows records cut off at the end",
    )
    lister = add_verb(verbs, "list", "List the newest decisions", _list)
    lister.add_argument(
        "--limit", metavar="N", type=int, default=DEFAULT_LIMIT, help=f"how many (default: {DEFAULT_LIMIT})"
    )
    lister.add_argument("--outcome", choices=("granted", "refused", "failed"), help="only these")
    lister.add_argument("--call", choices=CALLS, help="only these")
    lister.add_argument(
        "--holding",
        metavar="TEXT",
        action="append",
        default=[],
        help="only records with this text: the id of a launch or secret, a digest; may be repeated",
    )
    shower = add_verb(verbs, "show", "Show one decision", _show)
    shower.add_argument("number", metavar="NUMBER", type=int)
    exporter = add_verb(verbs, "export", "Write all decisions as JSON lines", _export)
    exporter.add_argument(
        "--after", metavar="NUMBER", type=int, default=0, help="only what came after this record"
    )


def _verify(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.auditlog import verify_log

    anchor = args.expect_head
    if anchor is not None and _HASH.fullmatch(anchor.lower()) is None:
        raise UsageError("not the hash of a record: 64 hex digits", code="audit.hash")
    with open_database(args) as db:
        head = verify_log(db.engine, anchor=None if anchor is None else anchor.lower())
    sentence = f"{head.number} records are whole; head {head.hash}"
    print_done(args, sentence, {"whole": True, "records": head.number, "head": head.hash})
    return 0


def _list(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.auditlog import newest_entries

    if args.limit < 1:
        raise UsageError("--limit is at least 1", code="usage.invalid")
    wanted = [f'"outcome":"{args.outcome}"'] if args.outcome else []
    wanted += [f'"call":"{args.call}"'] if args.call else []
    wanted += [_as_recorded(text) for text in args.holding]
    with open_database(args) as db:
        entries = newest_entries(db.engine, holding=wanted, limit=args.limit)
    if args.output == "json":
        print_list(args, "records", [_object(one) for one in entries], ())
        return 0
    header = ("NUMBER", "TIME", "CALL", "OUTCOME", "PLATFORM", "SECRETS", "WHY NOT")
    print_list(args, "records", [_row(one) for one in entries], header)
    return 0


def _show(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.auditlog import read_entry

    with open_database(args) as db:
        entry = read_entry(db.engine, args.number)
    if args.output == "json":
        print_object(args, _object(entry))
        return 0
    fields = entry.fields()
    failed = fields.pop("failed", None)
    if isinstance(failed, dict):
        allowed = ", ".join(str(one) for one in failed.get("allowed", ()))
        fields["rule"] = f"{failed.get('rule')} of policy {failed.get('policy') or 'default'}"
        fields["allowed"], fields["actual"] = allowed, failed.get("actual")
    print_object(args, {"number": entry.number, "hash": entry.hash, **fields})
    return 0


def _export(args: argparse.Namespace) -> int:
    with open_database(args) as db:
        for line in _lines(db, args.after):
            sys.stdout.write(line + "\n")
    return 0


def _lines(db: Database, after: int) -> Any:
    from sealpod.kbs.store.auditlog import read_entries

    for entry in read_entries(db.engine, after=after):
        yield json.dumps({"schemaVersion": SCHEMA_VERSION, **_object(entry)})


def _object(entry: Entry) -> dict[str, Any]:
    # The record's text goes along as it was hashed, so that a reader of the export can check the chain too.
    return {"number": entry.number, "hash": entry.hash, "text": entry.record, "record": entry.fields()}


def _row(entry: Entry) -> dict[str, Any]:
    fields = entry.fields()
    secrets = fields.get("released") or fields.get("secrets")
    return {
        "number": entry.number,
        "time": fields.get("time"),
        "call": fields.get("call"),
        "outcome": fields.get("outcome"),
        "platform": fields.get("platform"),
        "secrets": secrets,
        "why": fields.get("code"),
    }


def _as_recorded(text: str) -> str:
    return json.dumps(text)[1:-1]
