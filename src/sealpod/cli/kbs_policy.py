# SPDX-License-Identifier: Apache-2.0
"""``sealpod kbs policy``: which launches may have a secret."""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING, Any, Final

from sealpod.cli.kbs_admin_suggest import add_suggest
from sealpod.cli.kbs_admin_trial import add_test
from sealpod.cli.kbs_common import (
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
    from sealpod.kbs.core.policy import Rule
    from sealpod.kbs.store.policies import PolicyInfo

_HEX_DIGEST: Final = re.compile(r"[0-9A-Fa-f]{64}")
_VERSION: Final = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})")
_BYTE: Final = re.compile(r"[0-9]{1,3}")


def add_commands(nouns: Nouns) -> None:
    """``set``, ``list``, ``show``, ``delete``."""
    verbs = add_noun(nouns, "policy", "Policies: which launches may have a secret")
    setter = add_verb(verbs, "set", "Make or replace a policy; what refers to it keeps doing so", _set)
    setter.add_argument("name", metavar="NAME")
    _add_rule_options(setter)
    add_verb(verbs, "list", "List all policies; one without a name is listed by its number", _list)
    shower = add_verb(verbs, "show", "Show a policy and what refers to it", _show)
    shower.add_argument("name", metavar="NAME", help="its name, or the number of one without a name")
    ender = add_verb(verbs, "withdraw", "End a policy's time: what refers to it is refused", _withdraw)
    ender.add_argument("name", metavar="NAME", help="its name, or the number of one without a name")
    deleter = add_verb(verbs, "delete", "Delete a policy nothing refers to", _delete)
    deleter.add_argument("name", metavar="NAME", help="its name, or the number of one without a name")
    add_test(verbs)
    add_suggest(verbs)


def _add_rule_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--digest",
        dest="digests",
        metavar="DIGEST",
        action="append",
        default=[],
        help="a launch digest to allow, base64 or hex (sealpod measure); may be repeated; none allows any",
    )
    parser.add_argument(
        "--allow-policy",
        dest="policies",
        metavar="N",
        action="append",
        default=[],
        help="an SEV policy word to allow, decimal or 0x...; may be repeated; none allows any",
    )
    parser.add_argument("--min-api", metavar="MAJOR.MINOR", default="0.0", help="lowest firmware API version")
    parser.add_argument(
        "--build-id",
        dest="builds",
        metavar="N",
        action="append",
        default=[],
        help="a firmware build to allow; may be repeated; none allows any",
    )


def _set(args: argparse.Namespace) -> int:
    from sealpod.kbs.core.policy import ALLOW_ALL
    from sealpod.kbs.store.policies import set_policy, show_policy

    rule = rule_of(args)
    with open_database(args) as db:
        set_policy(db, args.name, rule)
        info, _ = show_policy(db, args.name)
    if rule == ALLOW_ALL:
        print(f"sealpod: note: policy {args.name} allows every launch", file=sys.stderr)
    print_done(args, f"policy {args.name} set, number {info.number}", _object(info))
    return 0


def _list(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.policies import list_policies

    with open_database(args) as db:
        found = list_policies(db)
    header = ("NAME", "NUMBER", "VALID", "DIGESTS", "POLICIES", "MIN API", "BUILDS")
    print_list(args, "policies", [_object(one) for one in found], header)
    return 0


def _show(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.policies import show_policy

    with open_database(args) as db:
        info, users = show_policy(db, args.name)
    print_object(args, {**_object(info), "usedBy": list(users)})
    return 0


def _withdraw(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.policies import withdraw_policy

    with open_database(args) as db:
        withdraw_policy(db, args.name)
    print_done(args, f"policy {args.name} withdrawn", {"name": args.name, "withdrawn": True})
    return 0


def _delete(args: argparse.Namespace) -> int:
    from sealpod.kbs.store.policies import delete_policy

    with open_database(args) as db:
        delete_policy(db, args.name)
    print_done(args, f"policy {args.name} deleted", {"name": args.name, "deleted": True})
    return 0


def _object(info: PolicyInfo) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": info.name, "number": info.number, "valid": info.valid}
    if info.rule is None:
        # null says that the row cannot be read; such a policy refuses everything.
        shown["valid"] = False
        return {**shown, "digests": None, "policies": None, "minApi": None, "buildIds": None}
    return {
        **shown,
        "digests": list(info.rule.allowed_digests),
        "policies": list(info.rule.allowed_policies),
        "minApi": "{}.{}".format(*info.rule.min_api),
        "buildIds": list(info.rule.allowed_build_ids),
    }


def rule_of(args: argparse.Namespace) -> Rule:
    """What the options of ``set`` say. :raise UsageError: one of them cannot be."""
    from sealpod.kbs.core.policy import Rule
    from sealpod.sev.policy import Policy

    return Rule(
        tuple(dict.fromkeys(_digest(text) for text in args.digests)),
        tuple(dict.fromkeys(Policy.parse(text).value for text in args.policies)),
        _version(args.min_api),
        tuple(dict.fromkeys(_byte(text) for text in args.builds)),
    )


def _digest(text: str) -> str:
    """A digest as policies hold it. 64 hex digits would be 48 bytes of base64, so there is no doubt."""
    from sealpod.errors import DecodeError
    from sealpod.kbs.core.evidence import decode_digest, encode_digest

    if _HEX_DIGEST.fullmatch(text):
        return encode_digest(bytes.fromhex(text))
    try:
        return encode_digest(decode_digest(text))
    except DecodeError as error:
        raise UsageError(
            f"not a launch digest: {text[:80]!r} ({error.message})",
            code="policy.digest-syntax",
            remedy="Give 32 bytes as 44 characters of base64 or 64 hex digits",
        ) from None


def _version(text: str) -> tuple[int, int]:
    match = _VERSION.fullmatch(text)
    if match is None:
        raise UsageError(f"not MAJOR.MINOR: {text[:40]!r}", code="policy.version-syntax")
    return _byte(match[1]), _byte(match[2])


def _byte(text: str) -> int:
    if _BYTE.fullmatch(text) is None or int(text) > 255:
        raise UsageError(f"not a number from 0 to 255: {text[:40]!r}", code="policy.version-syntax")
    return int(text)
