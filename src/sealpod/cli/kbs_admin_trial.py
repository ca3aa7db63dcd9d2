# SPDX-License-Identifier: Apache-2.0
"""``sealpod kbs policy test``: what a launch would get, and why not."""

from __future__ import annotations

import argparse
from typing import Any

from sealpod.cli.kbs_admin_suggest import read_input
from sealpod.cli.kbs_common import Nouns, add_verb, open_database, print_object
from sealpod.errors import RefusedError, UsageError
from sealpod.kbs.admin.policy import add_hidden_name


def add_test(verbs: Nouns) -> None:
    """``test``."""
    parser = add_verb(verbs, "test", "Say what a launch would get, and why not; releases nothing", _test)
    parser.epilog = "Exit status: 0 all of it would be released; 3 not."
    parser.add_argument("--digest", metavar="DIGEST", help="the launch digest, base64 or hex")
    parser.add_argument(
        "--measurement", metavar="FILE", help="instead: a record of `sealpod measure -o json`; - is stdin"
    )
    parser.add_argument("--sev-policy", metavar="N", default="3", help="SEV policy word (default: 3)")
    add_hidden_name(parser, "--allow-policy", dest="sev_policy")
    parser.add_argument("--api", metavar="MAJOR.MINOR", required=True, help="firmware API version")
    parser.add_argument("--build", metavar="N", type=int, required=True, help="firmware build")
    parser.add_argument("--default-policy", metavar="FILE", help="the broker's default_policy.json")
    parser.add_argument("--resources", metavar="DIRECTORY", help="the broker's resources")
    for kind, what in (
        ("key", "a secret"),
        ("bundle", "a keyset"),
        ("report", "a report by this key"),
        ("resource", "a resource of this type"),
    ):
        parser.add_argument(
            f"--{kind}",
            dest="requests",
            metavar="ID",
            action="append",
            type=lambda text, kind=kind: (kind, text),  # type: ignore[misc]
            help=f"ask for {what}; may be repeated",
        )
    parser.add_argument(
        "--connection",
        dest="requests",
        action="append_const",
        const=("connection", ""),
        help="ask for a connection",
    )


def test_body(args: argparse.Namespace) -> dict[str, Any]:
    """What ``POST /v1/policy-test`` takes. :raise UsageError: no digest, or two."""
    from sealpod.kbs.admin.suggestion import guests_of_record
    from sealpod.sev.policy import Policy

    if (args.digest is None) == (args.measurement is None):
        raise UsageError("give --digest or --measurement", code="policy.no-guest")
    digest = args.digest
    if digest is None:
        guests = guests_of_record(read_input(args.measurement))
        if len(guests) != 1:
            raise UsageError(f"the measurement has {len(guests)} digests", code="policy.no-guest")
        digest = guests[0].digest.hex()
    return {
        "digest": digest,
        "policy": Policy.parse(args.sev_policy).value,
        "api": args.api,
        "build": args.build,
        "requests": [{"type": kind, "id": name} for kind, name in args.requests or ()],
    }


def _test(args: argparse.Namespace) -> int:
    from sealpod.kbs.admin.service import Admin
    from sealpod.kbs.core.policy import ALLOW_ALL
    from sealpod.kbs.server.defaultpolicy import read_rule
    from sealpod.kbs.store.files import DirectoryFiles

    body = test_body(args)
    rule = ALLOW_ALL if args.default_policy is None else read_rule(args.default_policy)
    files = None if args.resources is None else DirectoryFiles(args.resources, limit=1 << 20)
    with open_database(args) as db:
        result = Admin(db, lambda: rule, files=files).test(body)
    return print_trial(args, result)


def print_trial(args: argparse.Namespace, result: dict[str, Any]) -> int:
    """The result of a trial; its exit status."""
    if args.output == "json":
        print_object(args, result)
    else:
        _print_text(result)
    return 0 if result["granted"] else RefusedError.exit_status


def _print_text(result: dict[str, Any]) -> None:
    print("granted" if result["granted"] else "refused")
    if result["error"]:
        print(f"  {_reason(result['error'])}")
    _print_policy("the broker's default policy", result["default"], "")
    for one in result["requests"]:
        print(f"{one['secret']}: {'granted' if one['granted'] else 'refused'}")
        if one["error"]:
            print(f"  {_reason(one['error'])}")
        for policy in one["policies"]:
            _print_policy(f"policy {policy['policy']}", policy, "  ")
        if not one["policies"] and not one["error"]:
            print("  no policy: any launch on a trusted platform may have it")
    if result["tableBytes"] > result["tableLimit"]:
        print(f"launch secret too large: {result['tableBytes']} bytes, a guest has {result['tableLimit']}")


def _print_policy(name: str, policy: dict[str, Any], indent: str) -> None:
    print(f"{indent}{name}: {'agrees' if policy['agrees'] else 'refuses'}")
    for rule in policy["rules"]:
        if not rule["holds"]:
            allowed = ", ".join(str(value) for value in rule["allowed"])
            print(f"{indent}  {rule['rule']}: the launch has {rule['actual']}, allowed: {allowed}")


def _reason(error: dict[str, Any]) -> str:
    return f"{error['message']} [{error['code']}]"
