# SPDX-License-Identifier: Apache-2.0
"""``sealpod sev validate``: a SEV guest's attestation report, verified under its platform's PEK."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any, Final

from sealpod.cli.sev_common import (
    add_output,
    base64_or_path,
    failure,
    from_base64,
    note,
    number_argument,
    print_result,
    read_file,
)
from sealpod.errors import DecodeError, UsageError

if TYPE_CHECKING:
    from sealpod.sev.cert import Certificate
    from sealpod.sev.report import Report

EPILOG: Final = """\
Two spellings: `validate CHAIN REPORT` (sevctl 0.6.1 and later), CHAIN being what `export` writes; and
`validate -p PEK -a REPORT` (0.6.0), files, or directories that hold pek.cert and attestation_report.bin.
PEK may be any file that starts with one, as sev-tool's cert_chain.cert does.

That the PEK is a real platform's is `sealpod sev verify --sev CHAIN`'s answer, or --ca's here. A report says
what a guest was started from, not that it is the guest you talk to; compare the nonce with the one you chose.
"""
PEK_FILE: Final = "pek.cert"
REPORT_FILE: Final = "attestation_report.bin"


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    from sealpod.cli.sev_chain import add_ca

    parser.epilog = EPILOG
    parser.add_argument("chain", metavar="CHAIN", nargs="?", help="the platform's chain")
    parser.add_argument("report", metavar="REPORT", nargs="?", help="the report, 208 bytes")
    parser.add_argument("-p", "--pek", metavar="FILE|DIR", help="the platform's PEK, in place of CHAIN")
    parser.add_argument("-a", "--attestation-report", metavar="FILE|DIR", help="the report, with --pek")
    add_ca(parser, "verify CHAIN too, up to this root: a file, or a directory of such files")
    parser.add_argument("--nonce", metavar="FILE|BASE64", help="the nonce the report must have, 16 bytes")
    parser.add_argument("--launch-digest", metavar="BASE64", help="the launch digest it must have")
    parser.add_argument("--policy", metavar="N", help="the policy it must have (decimal or 0x)")
    add_output(parser, _run)


def _run(args: argparse.Namespace) -> int:
    from sealpod.sev.policy import Policy
    from sealpod.sev.report import verify_report

    report, pek = _inputs(args)
    verify_report(
        report,
        pek,
        digest=None if args.launch_digest is None else from_base64("--launch-digest", args.launch_digest),
        mnonce=None if args.nonce is None else base64_or_path("--nonce", args.nonce),
        policy=None if args.policy is None else Policy(number_argument("--policy", args.policy)),
    )
    print_result(args, _text(report), _record(report, pek))
    return 0


def _inputs(args: argparse.Namespace) -> tuple[Report, Certificate]:
    named = (args.pek, args.attestation_report)
    if any(value is not None for value in named):
        if None in named or args.chain is not None:
            raise UsageError("--pek and --attestation-report must be specified together, without CHAIN")
        if args.ca is not None:
            raise UsageError("--ca verifies a CHAIN; a PEK alone has none")
        report = _report(_inside(args.attestation_report, REPORT_FILE))
        return report, _pek(_inside(args.pek, PEK_FILE))
    if args.report is None:
        raise UsageError("give CHAIN and REPORT, or --pek and --attestation-report")
    return _report(args.report), _pek_of_chain(args)


def _inside(path: str, name: str) -> str:
    return os.path.join(path, name) if os.path.isdir(path) else path


def _report(path: str) -> Report:
    from sealpod.sev.report import SIZE, Report

    data = read_file(path)
    if len(data) != SIZE:
        raise DecodeError(
            f"Unexpected report size encountered. A report has {SIZE} bytes, this file {len(data)}",
            code="report.malformed",
        )
    return Report.decode(data)


def _pek(path: str) -> Certificate:
    from sealpod.sev.cert import SIZE, Certificate

    note("the PEK's chain is not verified")
    return Certificate.decode(read_file(path)[:SIZE])


def _pek_of_chain(args: argparse.Namespace) -> Certificate:
    from sealpod.cli.sev_chain import chosen_authority, read_chain
    from sealpod.sev.chain import verify_chain
    from sealpod.sev.chainfile import PlatformChain

    data = read_chain(args.chain)
    try:
        chain = PlatformChain.decode(data)
    except DecodeError as error:
        raise failure("unable to decode chain", error) from error
    if args.ca is None:
        note("the PEK's chain is not verified; --ca or `sealpod sev verify --sev` does that")
    else:
        authority = chosen_authority(args.ca, chain.cek)
        verify_chain(chain.under(authority), {authority.ark.sha256: "--ca"})
    return chain.pek


def _text(report: Report) -> str:
    return "\n".join(
        (
            "the PEK signs the attestation report",
            f"nonce:         {report.mnonce.hex()}",
            f"launch digest: {report.digest.hex()}",
            f"policy:        {report.policy.describe()}",
        )
    )


def _record(report: Report, pek: Certificate) -> dict[str, Any]:
    from sealpod.sev.text import describe

    return {
        "verified": True,
        "nonce": report.mnonce.hex(),
        "launchDigest": report.digest.hex(),
        "policy": report.policy.value,
        "pek": describe(pek),
    }
