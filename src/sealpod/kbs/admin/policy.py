# SPDX-License-Identifier: Apache-2.0
"""Policies: which launches may have a secret."""

from __future__ import annotations

from argparse import SUPPRESS
from typing import TYPE_CHECKING, Final

from sealpod.kbs.admin.bodies import RULE
from sealpod.kbs.admin.noun import Noun, Object, Setting, Verbs
from sealpod.kbs.admin.schema import array, flag, nullable, number, structure, text

if TYPE_CHECKING:
    import argparse

    from sealpod.kbs.store.database import Database
    from sealpod.kbs.store.policies import PolicyInfo

_USERS: Final = "usedBy"


def _verbs() -> Verbs:
    from sealpod.kbs.store import policies

    def show(db: Database, name: str) -> Object:
        info, users = policies.show_policy(db, name)
        return {**_object(info), _USERS: list(users)}

    return Verbs(
        list=lambda db: [_object(one) for one in policies.list_policies(db)],
        show=show,
        ends={"withdraw": policies.withdraw_policy, "delete": policies.delete_policy},
    )


def _object(info: PolicyInfo) -> Object:
    from sealpod.kbs.admin.rules import rule_object

    shown: Object = {"name": info.name, "number": info.number, "valid": info.valid}
    if info.rule is None:
        # Null says that the row cannot be read; such a policy refuses everything.
        return {**shown, "valid": False, **dict.fromkeys(RULE)}
    return {**shown, **rule_object(info.rule)}


def add_digest_option(parser: argparse.ArgumentParser, text: str) -> None:
    """``--digest``, which may be repeated."""
    parser.add_argument("--digest", dest="digests", metavar="DIGEST", action="append", default=[], help=text)


def add_hidden_name(parser: argparse.ArgumentParser, name: str, *, dest: str, action: str = "store") -> None:
    """What another verb calls an option of this one, taken without a word."""
    # Neither default nor help: both are the option's own.
    parser.add_argument(name, dest=dest, action=action, default=SUPPRESS, help=SUPPRESS)


def add_version_options(parser: argparse.ArgumentParser, *, build: type = str) -> None:
    """``--min-api`` and ``--build-id``."""
    parser.add_argument("--min-api", metavar="MAJOR.MINOR", default="0.0", help="lowest firmware API version")
    parser.add_argument(
        "--build-id",
        dest="builds",
        metavar="N",
        action="append",
        default=[],
        type=build,
        help="a firmware build to allow; may be repeated; none allows any",
    )


def _options(parser: argparse.ArgumentParser) -> None:
    add_digest_option(
        parser, "a launch digest to allow, base64 or hex (sealpod measure); may be repeated; none allows any"
    )
    parser.add_argument(
        "--allow-policy",
        dest="policies",
        metavar="N",
        action="append",
        default=[],
        help="an SEV policy word to allow, decimal or 0x...; may be repeated; none allows any",
    )
    add_hidden_name(parser, "--sev-policy", dest="policies", action="append")
    add_version_options(parser)


def _reads(args: argparse.Namespace) -> Object:
    from sealpod.kbs.admin.rules import read_options, rule_object

    return rule_object(read_options(args.digests, args.policies, args.min_api, args.builds))


def _write(db: Database, name: str, body: Object) -> None:
    from sealpod.kbs.admin.rules import read_rule
    from sealpod.kbs.store.policies import set_policy

    set_policy(db, name, read_rule(body))


def _done(name: str, _body: Object, shown: Object) -> tuple[str, Object]:
    made = {member: value for member, value in shown.items() if member != _USERS}
    return f"policy {name} set, number {shown['number']}", made


def _note(body: Object) -> str:
    from sealpod.kbs.admin.rules import read_rule
    from sealpod.kbs.core.policy import ALLOW_ALL

    return "allows every launch" if read_rule(body) == ALLOW_ALL else ""


POLICIES: Final = Noun(
    name="policies",
    noun="policy",
    title="Policies: which launches may have a secret",
    about="which launches may have a secret",
    help={
        "set": "Make or replace a policy; what refers to it keeps doing so",
        "list": "List all policies; one without a name is listed by its number",
        "show": "Show a policy and what refers to it",
        "withdraw": "End a policy's time: what refers to it is refused",
        "delete": "Delete a policy nothing refers to",
    },
    id="name",
    id_help="its name, or the number of one without a name",
    shown=structure(
        {
            "name": text("its name, or the number of one without a name", most=255),
            "number": number("what simple-kbs' tables call it"),
            "valid": flag("whether it is in force; one that is not refuses everything"),
            **{name: nullable(schema) for name, schema in RULE.items()},
            _USERS: array(text("noun and id", most=1100), "what refers to it"),
        }
    ),
    header=("NAME", "NUMBER", "VALID", "DIGESTS", "POLICIES", "MIN API", "BUILDS"),
    verbs=_verbs,
    setting=Setting(structure(RULE), _options, _reads, _write, _done, note=_note),
    deletes="Delete one that nothing refers to",
)
