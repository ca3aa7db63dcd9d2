# SPDX-License-Identifier: Apache-2.0
"""Report keys: what the broker signs statements about launches with. Private halves are never shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sealpod.kbs.admin.bodies import POLICY
from sealpod.kbs.admin.noun import Noun, Object, Setting, Verbs
from sealpod.kbs.admin.schema import flag, nullable, structure, text
from sealpod.kbs.admin.values import read_secret_file, secret_value

if TYPE_CHECKING:
    import argparse

    from sealpod.kbs.store.database import Database


def _verbs() -> Verbs:
    from sealpod.kbs.store import reports

    def shown(info: reports.ReportKeyInfo) -> Object:
        return {"id": info.id, "publicKey": info.public, "policy": info.policy, "sealed": info.sealed}

    ends = {"delete": reports.delete_report_key}
    return Verbs.of(reports.list_report_keys, reports.show_report_key, ends, shown=shown)


def _options(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--generate", action="store_true", help="make a key that nobody has seen")
    source.add_argument(
        "--from-file", metavar="FILE", help="a P-256 private key, PKCS #8 in PEM or DER; - for standard input"
    )
    parser.add_argument("--policy", metavar="NAME", help="which launches may have a report signed with it")


def _reads(args: argparse.Namespace) -> Object:
    if args.generate:
        return {"policy": args.policy}
    return {"privateKey": read_secret_file(args.from_file), "policy": args.policy}


def _write(db: Database, key: str, body: Object) -> None:
    from sealpod.kbs.store.reports import generate_report_key, set_report_key

    private = body.get("privateKey")
    if private is None:
        generate_report_key(db, key, policy=body.get("policy"))
    else:
        set_report_key(db, key, secret_value(private), policy=body.get("policy"))


def _done(key: str, _body: Object, shown: Object) -> tuple[str, Object]:
    public = (shown["publicKey"] or "").rstrip()
    return f"report key {key} set, policy: {shown['policy'] or 'none'}\n{public}", shown


REPORT_KEY: Final = Noun(
    name="report-keys",
    noun="report-key",
    title="Report keys: what the broker signs statements about launches with",
    about="keys that sign reports of what a launch was",
    help={
        "set": "Make or replace a report key; prints its public half",
        "list": "List all report keys",
        "show": "Show a report key's public half; the private one is never shown",
        "delete": "Delete a report key",
    },
    shown=structure(
        {
            "id": text("report key id"),
            "publicKey": nullable(text("PEM; null when the row cannot be read", most=2048)),
            "policy": POLICY,
            "sealed": flag("whether it is encrypted at rest"),
        }
    ),
    header=("ID", "PUBLIC KEY", "POLICY", "SEALED"),
    yes_or_no={"PUBLIC KEY": "READABLE"},
    verbs=_verbs,
    setting=Setting(
        structure(
            {
                "privateKey": nullable(
                    text("base64 of a PKCS #8 P-256 key; a fresh one if left out", most=4096)
                ),
                "policy": POLICY,
            }
        ),
        _options,
        _reads,
        _write,
        _done,
        id_help="what a request asks for",
    ),
)
