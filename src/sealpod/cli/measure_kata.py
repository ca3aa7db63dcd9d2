# SPDX-License-Identifier: Apache-2.0
"""``sealpod measure --kata-config``: a pod's digests from its node's configuration and its manifest."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, Final

from sealpod.errors import DecodeError, UsageError

if TYPE_CHECKING:
    from sealpod.kataconfig.podfile import Pod
    from sealpod.measure.components import Components
    from sealpod.measure.launch import Vcpus
    from sealpod.sandbox.foretell import Foretold

_ELSEWHERE: Final = (
    "append",
    "append_hash",
    "kernel_hash",
    "initrd_hash",
    "snp_ovmf_hash",
    "ovmf_metadata",
    "svsm",
    "vars_size",
    "vars_file",
    "policy",
    "dump_vmsa",
)
"""Options whose value the configuration has, or that it has nothing to do with."""
_FAMILY: Final = ("vcpu_family", "vcpu_sig", "vcpu_type")


def run(args: argparse.Namespace) -> int:
    """Foretell, then print or compare. Returns the exit status."""
    _check(args)
    found = _foretell(args)
    for warning in found.warnings:
        print(f"sealpod: warning: {args.kata_config}: {warning}", file=sys.stderr)
    if args.mode is not None and args.mode != found.mode:
        raise UsageError(
            f"the configuration is of mode {found.mode}, not {args.mode}",
            code="measure.mode",
            remedy="leave out --mode, or change sev_guest_policy",
        )
    if args.explain is not None:
        from sealpod.cli.measure_output import compare_with

        return compare_with(args.explain, found.components, args.output)
    _print(args, found)
    return 0


def measured(args: argparse.Namespace) -> tuple[Components, ...]:
    """The components of each size; nothing is printed."""
    _check(args)
    return _foretell(args).components


def _check(args: argparse.Namespace) -> None:
    for name in _ELSEWHERE:
        if getattr(args, name) not in (None, False):
            option = name.replace("_", "-")
            raise UsageError(f"--{option} does not go with --kata-config", code="measure.kata")
    copies = (args.ovmf, args.kernel, args.initrd)
    if "-" in copies:
        raise UsageError(
            "standard input cannot be a copy of a node's file",
            code="measure.stdin",
            remedy="give --ovmf, --kernel and --initrd files; --kata-config or --pod may be -",
        )
    if args.kata_config == args.pod == "-":
        raise UsageError("standard input can be one file only", code="measure.stdin")


def _foretell(args: argparse.Namespace) -> Foretold:
    from sealpod.kataconfig.commandline import Release
    from sealpod.sandbox.foretell import Node, foretell
    from sealpod.sandbox.spec import GuestFiles

    node = Node(
        config=_text(args.kata_config),
        release=Release(args.runtime),
        cpus=args.node_cpus,
        fips=args.fips,
        files=GuestFiles(args.ovmf or "", args.kernel or "", args.initrd or ""),
    )
    pod = _pod(args.pod)
    return foretell(
        node,
        {} if pod is None else pod.annotations,
        0 if pod is None else pod.milli_cpus,
        counts=args.vcpus or (),
        processors=(lambda mode: _processors(args, mode)) if _named(args) else None,
    )


def _named(args: argparse.Namespace) -> bool:
    return args.vmm_type != "QEMU" or any(getattr(args, name) is not None for name in _FAMILY)


def _processors(args: argparse.Namespace, mode: str) -> Vcpus:
    from sealpod.cli.measure_input import vcpus_of

    given: dict[str, Any] = vars(args) | {"mode": mode, "vcpus": ()}
    return vcpus_of(argparse.Namespace(**given))


def _pod(path: str | None) -> Pod | None:
    if path is None:
        return None
    from sealpod.kataconfig.podfile import parse_pod

    return parse_pod(_text(path))


def _text(path: str) -> str:
    """A file's text, or standard input's."""
    from sealpod.cli.measure_input import read_text

    try:
        return read_text(path).decode()
    except UnicodeDecodeError:
        raise DecodeError(f"{path} is not UTF-8", code="config.syntax") from None


def _print(args: argparse.Namespace, found: Foretold) -> None:
    from sealpod.cli.measure_output import encoded, print_json

    if args.output == "json":
        print_json(_document(args, found))
        return
    if args.verbose:
        print(f"sealpod: mode {found.mode}, command line of runtime {args.runtime}", file=sys.stderr)
    for count, one in zip(found.counts, found.components, strict=True):
        digest = encoded(bytes.fromhex(one.digest), args.output_format)
        print(digest if len(found.counts) == 1 else f"{count} {digest}")


def _document(args: argparse.Namespace, found: Foretold) -> dict[str, object]:
    """A record that `measure explain` reads; of several sizes, one that has a record for each."""
    from sealpod.measure.document import document

    about: dict[str, object] = {"runtime": args.runtime, "config": args.kata_config, "pod": args.pod}
    about["warnings"] = list(found.warnings)
    guests = [
        {**document(launch, found.ovmf, (one,)), "bootVcpus": count}
        for launch, one, count in zip(found.launches, found.components, found.counts, strict=True)
    ]
    if len(guests) == 1:
        return {**guests[0], **about}
    about["firmwareTable"] = guests[0]["firmwareTable"]
    # Steps of each would make a record of many sizes longer than a reader takes.
    for guest in guests:
        for name in ("firmwareTable", "sections", "trace"):
            del guest[name]
    return {"schemaVersion": 2, **about, "guests": guests}
