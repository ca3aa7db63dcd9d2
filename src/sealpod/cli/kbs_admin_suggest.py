# SPDX-License-Identifier: Apache-2.0
"""``sealpod kbs policy suggest``: the policy that allows just the guests it is given."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import Counter
from typing import TYPE_CHECKING, Final

from sealpod.cli.kbs_common import Nouns, add_verb, open_database, print_object
from sealpod.errors import AccessError, DecodeError, NotFoundError, OperationError, UsageError
from sealpod.kbs.admin.policy import add_digest_option, add_hidden_name, add_version_options

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sealpod.kbs.admin.suggestion import Guest, Suggestion
    from sealpod.kbs.core.policy import Rule

MAX_RECORD: Final = 1 << 20
"""Bytes read of a measurement."""
DEFAULT_VCPU: Final = "EPYC"
"""QEMU's plain model of the first chips that could."""


def add_suggest(verbs: Nouns) -> None:
    """``suggest``."""
    text = "Make the policy that allows just these guests; prints it, or sets it"
    parser = add_verb(verbs, "suggest", text, _suggest)
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
    add_digest_option(parser, "a launch digest, base64 or hex; may be repeated")
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
        help="SEV policy word to allow; with ES (bit 2, value 4) files are measured as SEV-ES guests; may be "
        "repeated (default: the measurements', or 3)",
    )
    add_hidden_name(parser, "--allow-policy", dest="policies", action="append")
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
    add_version_options(parser, build=int)


def _suggest(args: argparse.Namespace) -> int:
    def keep(name: str, rule: Rule) -> None:
        from sealpod.kbs.store.policies import set_policy

        with open_database(args) as db:
            set_policy(db, name, rule)

    return suggest_and_keep(args, keep)


def suggest_and_keep(args: argparse.Namespace, keep: Callable[[str, Rule], None]) -> int:
    """Print the policy, and ``keep`` it under the name the options give."""
    from sealpod.kbs.admin import objects

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

    from sealpod.kbs.admin import rules
    from sealpod.kbs.admin.suggestion import Guest, guests_of_record, suggest
    from sealpod.sev.policy import Policy

    words = [Policy.parse(text).value for text in args.policies]
    guests = [guest for path in args.measurements for guest in guests_of_record(read_input(path))]
    guests += [Guest(b64decode(rules.digest(text))) for text in args.digests]
    guests += _measured(args, words) if args.kata_config is None else _pods(args)
    least = rules.version(args.min_api)
    return suggest(guests, policies=words, min_api=least, build_ids=_bytes(args.builds))


def _measured(args: argparse.Namespace, words: list[int]) -> list[Guest]:
    from sealpod.kbs.admin.suggestion import GuestFiles, guests_of_files, vcpu_range
    from sealpod.measure.launch import Vcpus
    from sealpod.measure.vcpu import named
    from sealpod.sev.policy import Policy, PolicyFlag

    paths = _paths(args)
    if paths is None:
        return []
    firmware, kernel, initrd = (None if path is None else read_input(path, limit=None) for path in paths)
    files = GuestFiles(firmware or b"", kernel, initrd, args.append)
    es = {PolicyFlag.ES in Policy.from_int(word).flags for word in words} or {False}
    vcpus = Vcpus(counts=vcpu_range(args.vcpus or "1"), signature=named(args.vcpu_type))
    return [guest for kind in sorted(es) for guest in guests_of_files(files, sev_es=kind, vcpus=vcpus)]


def _pods(args: argparse.Namespace) -> Sequence[Guest]:
    """The guests a node makes of a pod, one for each size."""
    from sealpod.kataconfig.commandline import Release
    from sealpod.kataconfig.podfile import parse_pod
    from sealpod.kbs.admin.suggestion import guests_of, vcpu_range
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
        return read_input(path).decode()
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
        counts = Counter(guest.label() for guest in made.guests)
        kinds = [label if count == 1 else f"{label} ({count} digests)" for label, count in counts.items()]
        print(f"policy {name} set: {', '.join(kinds)}")
    print(" \\\n    ".join(lines))


def _bytes(builds: list[int]) -> list[int]:
    for build in builds:
        if not 0 <= build <= 255:
            raise UsageError(f"not a number from 0 to 255: {build}", code="policy.version-syntax")
    return builds


def read_input(path: str, limit: int | None = MAX_RECORD) -> bytes:
    """A file's bytes, or standard input's for ``-``. :raise SealpodError: it cannot be read."""
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
