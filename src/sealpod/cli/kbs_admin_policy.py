# SPDX-License-Identifier: Apache-2.0
"""``sealpod kbs policy test`` and ``policy suggest``: what a launch would get, which policy fits guests."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import TYPE_CHECKING, Any, Final

from sealpod.cli.kbs_common import Nouns, add_verb, open_database, print_object
from sealpod.errors import AccessError, DecodeError, NotFoundError, OperationError, RefusedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sealpod.kbs.core.policy import Rule
    from sealpod.kbs.server.admin.suggestion import Guest, Suggestion

MAX_RECORD: Final = 1 << 20
"""Bytes read of a measurement."""
DEFAULT_VCPU: Final = "EPYC"
"""QEMU's plain model of the first chips that could."""


def add_policy_verbs(verbs: Nouns) -> None:
    """``test`` and ``suggest``."""
    _add_test(add_verb(verbs, "test", "Say what a launch would get, and why not; releases nothing", _test))
    _add_suggest(
        add_verb(
            verbs, "suggest", "Make the policy that allows just these guests; prints it, or sets it", _suggest
        )
    )


def _add_test(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Exit status: 0 all of it would be released; 3 not."
    parser.add_argument("--digest", metavar="DIGEST", help="the launch digest, base64 or hex")
    parser.add_argument(
        "--measurement", metavar="FILE", help="instead: a record of `sealpod measure -o json`; - is stdin"
    )
    parser.add_argument("--sev-policy", metavar="N", default="3", help="SEV policy word (default: 3)")
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


def _add_suggest(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Guests are given as measurements (of `sealpod measure -o json`), as digests, as files, or as the "
        "pods of a node's Kata configuration; with --kata-config, --ovmf, --kernel and --initrd name copies "
        "of the files it names."
    )
    parser.add_argument("--set", dest="name", metavar="NAME", help="set it under this name")
    parser.add_argument(
        "--measurement",
        dest="measurements",
        metavar="FILE",
        action="append",
        default=[],
        help="a record of `sealpod measure -o json`, - is stdin; may be repeated",
    )
    parser.add_argument(
        "--digest",
        dest="digests",
        metavar="DIGEST",
        action="append",
        default=[],
        help="a launch digest, base64 or hex; may be repeated",
    )
    parser.add_argument(
        "--guest",
        metavar="DIRECTORY",
        nargs="?",
        const="",
        help="the guest image there, or the one that was built",
    )
    parser.add_argument("--ovmf", metavar="FILE", help="firmware image")
    parser.add_argument("--kernel", metavar="FILE", help="kernel (with --ovmf)")
    parser.add_argument("--initrd", metavar="FILE", help="initrd (with --ovmf)")
    parser.add_argument("--append", metavar="CMDLINE", help="kernel command line (with --guest or --kernel)")
    parser.add_argument(
        "--sev-policy",
        dest="policies",
        metavar="N",
        action="append",
        default=[],
        help="SEV policy word to allow; with bit 4 (ES) files are measured as SEV-ES guests; may be repeated "
        "(default: the measurements', or 3)",
    )
    parser.add_argument(
        "--vcpus",
        metavar="RANGE",
        help="vCPU counts of SEV-ES guests and of pods, for instance 1-8 (default: 1, or what the pod's "
        "limits come to)",
    )
    parser.add_argument(
        "--vcpu-type", metavar="MODEL", default=DEFAULT_VCPU, help="of SEV-ES guests (default: EPYC)"
    )
    parser.add_argument("--kata-config", metavar="FILE", help="Kata's configuration of the node (TOML)")
    parser.add_argument("--pod", metavar="POD.yaml", help="the pod's manifest (with --kata-config)")
    parser.add_argument(
        "--runtime",
        choices=("sealpod", "cc-0.3.0"),
        default="sealpod",
        help="what reads the configuration there (default: sealpod)",
    )
    parser.add_argument("--min-api", metavar="MAJOR.MINOR", default="0.0", help="lowest firmware API version")
    parser.add_argument(
        "--build-id",
        dest="builds",
        metavar="N",
        type=int,
        action="append",
        default=[],
        help="a firmware build to allow; may be repeated; none allows any",
    )


def test_body(args: argparse.Namespace) -> dict[str, Any]:
    """What ``POST /v1/policy-test`` takes. :raise UsageError: no digest, or two."""
    from sealpod.kbs.server.admin.suggestion import guests_of_record
    from sealpod.sev.policy import Policy

    if (args.digest is None) == (args.measurement is None):
        raise UsageError("give --digest or --measurement", code="policy.no-guest")
    digest = args.digest
    if digest is None:
        guests = guests_of_record(_read(args.measurement))
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
    from sealpod.kbs.core.policy import ALLOW_ALL
    from sealpod.kbs.server.admin.service import Admin
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


def _suggest(args: argparse.Namespace) -> int:
    def keep(name: str, rule: Rule) -> None:
        from sealpod.kbs.store.policies import set_policy

        with open_database(args) as db:
            set_policy(db, name, rule)

    return suggest_and_keep(args, keep)


def suggest_and_keep(args: argparse.Namespace, keep: Callable[[str, Rule], None]) -> int:
    """Print the policy, and ``keep`` it under the name the options give."""
    from sealpod.kbs.server.admin import objects

    made = suggestion(args)
    for note in made.notes:
        print(f"sealpod: note: {note}", file=sys.stderr)
    if args.name is not None:
        keep(args.name, made.rule)
    if args.output == "json":
        print_object(args, objects.suggestion(made))
    else:
        _print_suggestion(made, args.name)
    return 0


def suggestion(args: argparse.Namespace) -> Suggestion:
    """The policy for the guests of the options. :raise SealpodError: they cannot be read or measured."""
    from base64 import b64decode

    from sealpod.kbs.server.admin import objects
    from sealpod.kbs.server.admin.suggestion import Guest, guests_of_record, suggest
    from sealpod.sev.policy import Policy

    words = [Policy.parse(text).value for text in args.policies]
    guests = [guest for path in args.measurements for guest in guests_of_record(_read(path))]
    guests += [Guest(b64decode(objects.digest(text))) for text in args.digests]
    guests += _measured(args, words) if args.kata_config is None else _pods(args)
    rule = {"minApi": args.min_api, "buildIds": args.builds}
    checked = objects.read_rule(rule)
    return suggest(guests, policies=words, min_api=checked.min_api, build_ids=_bytes(args.builds))


def _measured(args: argparse.Namespace, words: list[int]) -> list[Guest]:
    from sealpod.kbs.server.admin.suggestion import GuestFiles, guests_of_files, vcpu_range
    from sealpod.measure.launch import Vcpus
    from sealpod.measure.vcpu import named
    from sealpod.sev.policy import Policy, PolicyFlag

    paths = _paths(args)
    if paths is None:
        return []
    firmware, kernel, initrd = (None if path is None else _read(path, limit=None) for path in paths)
    files = GuestFiles(firmware or b"", kernel, initrd, args.append)
    es = {PolicyFlag.ES in Policy.from_int(word).flags for word in words} or {False}
    vcpus = Vcpus(counts=vcpu_range(args.vcpus or "1"), signature=named(args.vcpu_type))
    return [guest for kind in sorted(es) for guest in guests_of_files(files, sev_es=kind, vcpus=vcpus)]


def _pods(args: argparse.Namespace) -> Sequence[Guest]:
    """The guests a node makes of a pod, one for each size."""
    from sealpod.kataconfig.commandline import Release
    from sealpod.kataconfig.podfile import parse_pod
    from sealpod.kbs.server.admin.suggestion import guests_of, vcpu_range
    from sealpod.measure.launch import Vcpus
    from sealpod.measure.vcpu import named
    from sealpod.sandbox.foretell import Node, foretell
    from sealpod.sandbox.spec import GuestFiles

    files = GuestFiles(args.ovmf or "", args.kernel or "", args.initrd or "")
    node = Node(_text(args.kata_config), Release(args.runtime), files=files)
    pod = None if args.pod is None else parse_pod(_text(args.pod))
    found = foretell(
        node,
        {} if pod is None else pod.annotations,
        0 if pod is None else pod.milli_cpus,
        counts=() if args.vcpus is None else vcpu_range(args.vcpus),
        processors=lambda _mode: Vcpus(signature=named(args.vcpu_type)),
    )
    return guests_of(found.components)


def _text(path: str) -> str:
    try:
        return _read(path).decode()
    except UnicodeDecodeError:
        raise DecodeError(f"{path} is not UTF-8", code="config.syntax") from None


def _paths(args: argparse.Namespace) -> tuple[str, str | None, str | None] | None:
    if args.guest is not None:
        from sealpod.guestimage.locate import locate

        found = locate(args.guest or None, firmware_path=args.ovmf)
        return found.firmware, found.kernel, found.initrd
    if args.ovmf is None:
        if args.kernel or args.initrd or args.append:
            raise UsageError("--kernel, --initrd and --append need --ovmf or --guest", code="policy.no-guest")
        return None
    return args.ovmf, args.kernel, args.initrd


def _print_suggestion(made: Suggestion, name: str | None) -> None:
    from sealpod.kbs.core.evidence import encode_digest

    words = ["sealpod", "kbs", "policy", "set", name or "NAME"]
    lines = [shlex.join(words)]
    lines += [f"--digest {encode_digest(guest.digest)}" for guest in made.guests]
    lines += [f"--allow-policy {word}" for word in made.rule.allowed_policies]
    if made.rule.min_api != (0, 0):
        lines.append("--min-api {}.{}".format(*made.rule.min_api))
    lines += [f"--build-id {build}" for build in made.rule.allowed_build_ids]
    if name is not None:
        print(f"policy {name} set: {', '.join(guest.label() for guest in made.guests)}")
    print(" \\\n    ".join(lines))


def _bytes(builds: list[int]) -> list[int]:
    for build in builds:
        if not 0 <= build <= 255:
            raise UsageError(f"not a number from 0 to 255: {build}", code="policy.version-syntax")
    return builds


def _read(path: str, limit: int | None = MAX_RECORD) -> bytes:
    try:
        if path == "-":
            return sys.stdin.buffer.read(-1 if limit is None else limit + 1)
        with open(path, "rb") as file:
            return file.read() if limit is None else file.read(limit + 1)
    except FileNotFoundError:
        raise NotFoundError(f"no such file: {path}", code="file.missing") from None
    except PermissionError:
        raise AccessError(f"no permission to read {path}", code="file.permission") from None
    except OSError as error:
        raise OperationError(f"cannot read {path}: {error.strerror}", code="file.unreadable") from None
