# SPDX-License-Identifier: Apache-2.0
"""``sealpod sev verify``: a certificate chain link by link, as sevctl draws it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from sealpod.cli.sev_common import add_output, add_platform, failure, print_result, read_file
from sealpod.errors import DecodeError, VerificationError

if TYPE_CHECKING:
    from sealpod.sev.chain import Chain

EPILOG: Final = """\
Without --sev the platform of this machine is asked. Without --ca the authority is AMD's: from the end of a
full chain when its ARK is a pinned one, else from AMD's server, checked against the pins. A chain under any
other root needs --ca, by which you say that you trust that root.

Exit status: 0 every link holds and the root is trusted; 3 not so; others as for every command.
"""
FAILED: Final = "SEV/CA certificate verification failed"
_LEGEND: Final = " • = self signed, ⬑ = signs, •̷ = invalid self sign, ⬑̸ = invalid signs"
_GREEN, _RED, _PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[0m"

# Certificate, indentation, the link from it to the one before, its link to itself: names of sev.chain.LINKS.
_TREE: Final = (
    ("pek", "", "pdh", None),
    ("oca", "   ", "pek-oca", "oca"),
    ("cek", "   ", "pek-cek", None),
    ("ask", "      ", "cek", None),
    ("ark", "         ", "ask", "ark"),
)


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is to be verified, and which roots count: SHA-256 of an ARK to its name."""

    chain: Chain
    trusted: Mapping[str, str]


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    from sealpod.cli.sev_chain import add_ca, add_offline

    parser.epilog = EPILOG
    parser.add_argument(
        "--sev",
        metavar="FILE|DIR",
        help="read the SEV chain (PDH, PEK, OCA, CEK) from this file, or from files of sev-tool's names",
    )
    parser.add_argument("--oca", metavar="FILE", help="read the OCA's certificate from this file")
    add_ca(parser, "trust this root: ASK and ARK in a file, or a directory of such files")
    add_offline(parser)
    add_platform(parser)
    add_output(parser, _run)


def _run(args: argparse.Namespace) -> int:
    from sealpod.sev.chain import failed_links

    subject = _of_platform(args) if args.sev is None else _of_file(args)
    if args.oca is not None:
        subject = _Subject(replace(subject.chain, oca=_read_oca(args.oca)), subject.trusted)
    failed = failed_links(subject.chain)
    root = subject.trusted.get(subject.chain.ark.sha256)
    print_result(args, _draw(subject.chain, failed), _record(subject.chain, failed, root))
    _conclude(subject.chain, failed, root)
    return 0


def _of_platform(args: argparse.Namespace) -> _Subject:
    from sealpod.cli import sev_chain

    exported = sev_chain.export_platform(args)
    platform = sev_chain.signed_chain(args, exported)
    authority = sev_chain.vendor_authority(args, exported, platform.cek)
    # On a model its own root counts: the user has chosen it, and is told what it is worth.
    name = sev_chain.root_name(authority.ark.sha256, exported.kind)
    return _Subject(platform.under(authority), {authority.ark.sha256: name})


def _of_file(args: argparse.Namespace) -> _Subject:
    from sealpod.cli import sev_chain
    from sealpod.sev.chainfile import PLATFORM_CHAIN_SIZE, Chain, PlatformChain
    from sealpod.sev.roots import AMD_ARKS

    data = sev_chain.read_chain(args.sev)
    try:
        platform = PlatformChain.decode(data)
        if args.ca is None and len(data) > PLATFORM_CHAIN_SIZE:
            return _Subject(Chain.decode(data), AMD_ARKS)
    except DecodeError as error:
        raise failure("unable to decode chain", error) from error
    if args.ca is None:
        return _Subject(platform.under(sev_chain.amd_authority(args, platform.cek)), AMD_ARKS)
    authority = sev_chain.chosen_authority(args.ca, platform.cek)
    trusted = {
        authority.ark.sha256: sev_chain.root_name(
            authority.ark.sha256, os.path.basename(os.path.normpath(args.ca))
        )
    }
    return _Subject(platform.under(authority), trusted)


def _read_oca(path: str) -> Any:
    from sealpod.sev.cert import SIZE, Certificate, Usage

    data = read_file(path, what="OCA certificate file")
    try:
        oca = Certificate.decode(data[:SIZE])
        if oca.usage != Usage.OCA:
            raise DecodeError(f"a {oca.usage.name} in place of an OCA", code="owner.oca")
        oca.require_canonical()
    except DecodeError as error:
        raise failure("unable to decode OCA", error) from error
    return oca


def _draw(chain: Chain, failed: Mapping[str, object]) -> str:
    from sealpod.sev.text import describe

    lines = [describe(chain.pdh)]
    for name, indentation, link, own in _TREE:
        signs = _mark("⬑", "⬑̸", link not in failed)
        itself = " " if own is None else _mark("•", "•̷", own not in failed)
        lines.append(f"{indentation}{itself}{signs} {describe(getattr(chain, name))}")
    return "\n".join([*lines, "", _LEGEND])


def _mark(good: str, bad: str, holds: bool) -> str:
    text = good if holds else bad
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"{_GREEN if holds else _RED}{text}{_PLAIN}"


def _record(chain: Chain, failed: Mapping[str, VerificationError], root: str | None) -> dict[str, Any]:
    from sealpod.sev.chain import LINKS
    from sealpod.sev.text import describe

    names = ("pdh", "pek", "oca", "cek", "ask", "ark")
    return {
        "verified": not failed and root is not None,
        "root": root,
        "arkSha256": chain.ark.sha256,
        "certificates": {name: describe(getattr(chain, name)) for name in names},
        "links": [
            {
                "issuer": link.issuer.name,
                "subject": link.subject.name,
                "valid": link.name not in failed,
                "error": failed[link.name].message if link.name in failed else None,
            }
            for link in LINKS
        ],
    }


def _conclude(chain: Chain, failed: Mapping[str, VerificationError], root: str | None) -> None:
    """:raise VerificationError: unless every link holds and the root is trusted."""
    for name, error in failed.items():
        raise VerificationError(f"{FAILED}: {error.message}", code=f"chain.{name}")
    if root is None:
        raise VerificationError(
            f"{FAILED}: the chain ends in an ARK that is not trusted (SHA-256 {chain.ark.sha256})",
            code="chain.untrusted-root",
            remedy="give its ASK and ARK by --ca only if you know whose they are",
        )
