# SPDX-License-Identifier: Apache-2.0
"""``sealpod kbs seal`` and ``rewrap``: bringing stored records under the active key-encryption key."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from sealpod.cli.kbs_common import Nouns, add_verb, open_database, print_done

if TYPE_CHECKING:
    from sealpod.kbs.store.sealed import Walked


_SEAL: Final = (
    "Seal secrets, report keys and connection keys that stand in the database in plain. The broker may serve "
    "meanwhile; what somebody sets in between stays theirs."
)
_REWRAP: Final = (
    "Wrap every record that is sealed under an older key-encryption key under the active one. To change "
    "keys: put the new key before the old one in the key's file (or give it with --kek and the old one with "
    "--old-kek) for all replicas, run this until it finds nothing more, then take the old key away. The "
    "broker may serve meanwhile."
)


def add_commands(nouns: Nouns) -> None:
    """``seal``, ``rewrap``."""
    add_verb(nouns, "seal", "Seal records that an old tool wrote in plain", _seal).description = _SEAL
    add_verb(
        nouns, "rewrap", "Bring all records under the active key-encryption key", _rewrap
    ).description = _REWRAP


def _seal(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.sealed import seal_plain
    from sealpod.kbs.store.survey import CONNECTION, survey

    with open_database(args) as db:
        walked = seal_plain(db)
        left = survey(db.engine).plain
    vouched = walked.written[CONNECTION]
    if vouched:
        note = f"{vouched} connections that stood in plain are taken for the broker's own from now on"
        print(
            f"sealpod: {note}: see `sealpod kbs connection list`, and revoke others than you expect",
            file=sys.stderr,
        )
    return _tell(args, "sealed", walked, left, {})


def _rewrap(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.sealed import rewrap
    from sealpod.kbs.store.survey import survey

    with open_database(args) as db:
        walked = rewrap(db)
        ring = None if db.sealer.keys is None else db.sealer.keys.ring()
        active, loaded = ("", frozenset[str]()) if ring is None else (ring.active, ring.ids)
        left: Counter[str] = Counter()
        lost = {}
        for name, counts in survey(db.engine).under.items():
            if name != active:
                left.update(counts)
            if name not in loaded:
                lost[name] = counts.total()
    return _tell(args, "rewrapped", walked, left, lost)


def _tell(
    args: argparse.Namespace, verb: str, walked: Walked, left: Counter[str], lost: Mapping[str, int]
) -> int:
    for noun, key, error in walked.failed:
        print(f"sealpod: {noun} {key!r}: {error.one_line()}", file=sys.stderr)
    if walked.remains:
        note = "what was in plain is still in unused pages of the file; stop the broker and seal once more"
        print(f"sealpod: {note}", file=sys.stderr)
    value: dict[str, Any] = {verb: dict(walked.written), "failed": len(walked.failed), "left": dict(left)}
    done = ", ".join(f"{noun}s: {count}" for noun, count in sorted(walked.written.items())) or "nothing to do"
    rest = left.total() - sum(lost.values())
    if rest:
        done += f"; {rest} left, run it again"
    for name, count in sorted(lost.items()):
        done += f"; {count} left under key-encryption key {name}, which is not loaded: give it with --old-kek"
    print_done(args, f"{verb}: {done}", value)
    return 1 if walked.failed else 0
