# SPDX-License-Identifier: Apache-2.0
"""``sealpod kbs doctor``: what is wrong with the database, or soon will be."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from sealpod.cli.kbs_common import Nouns, add_verb, database_url, kek_sources, print_object


def add_commands(nouns: Nouns) -> None:
    """``doctor``."""
    text = "Say what is wrong with the database: keys missing, records in plain, policies nobody has"
    add_verb(nouns, "doctor", text, _doctor).description = (
        f"{text}. Changes nothing. An error refuses launches or keeps the broker from starting, a warning "
        "weakens it, a note is what may have been meant otherwise. Exit status 1 with an error, else 0."
    )


def _doctor(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.doctor import examine
    from sealpod.kbs.store.engine import connect_engine

    engine = connect_engine(database_url(args))
    try:
        findings = examine(engine, kek_sources(args))
    finally:
        engine.dispose()
    if args.output == "json":
        print_object(args, {"findings": [asdict(one) for one in findings]})
    else:
        for one in findings:
            remedy = f" ({one.remedy})" if one.remedy else ""
            print(f"{one.level}: {one.subject} {one.text}{remedy} [{one.check}]")
        if not findings:
            print("nothing is wrong")
    return 1 if any(one.level == "error" for one in findings) else 0
