# SPDX-License-Identifier: Apache-2.0
"""``sealpod sev export``: the platform's certificates in sevctl's order, and the root's fingerprint."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any, Final

from sealpod.cli.sev_common import add_output, add_platform, print_result

if TYPE_CHECKING:
    from sealpod.cli.sev_chain import Exported
    from sealpod.sev.chainfile import Chain, PlatformChain

EPILOG: Final = """\
The certificates are written one after the other, in sevctl's order: PDH, PEK, OCA, CEK, with --full also
ASK and ARK. On /dev/sev the signed CEK comes from AMD's key server, by the chip's identifier, and so do ASK
and ARK; downloads are kept. The SHA-256 of the ARK's bytes, printed beside a full chain, is what a key broker
is told to trust:

  sealpod sev export --full platform.cert
  sealpod kbs serve --trust-ark SHA256 ...
"""


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    from sealpod.cli.sev_chain import add_ca, add_offline

    parser.epilog = EPILOG
    parser.add_argument("destination", metavar="DEST", help="file to write")
    parser.add_argument("-f", "--full", action="store_true", help="append ASK and ARK")
    add_ca(parser, "where ASK and ARK are, with --full: a file, or a directory of such files")
    add_offline(parser)
    add_platform(parser)
    add_output(parser, _run)


def _run(args: argparse.Namespace) -> int:
    from sealpod.cli import sev_chain
    from sealpod.cli.outputs import OutputFile, write_outputs

    exported = sev_chain.export_platform(args)
    platform = sev_chain.signed_chain(args, exported)
    full = None
    # A model's authority is at hand, so its root is shown for a short chain too.
    if args.full or exported.vendor is not None:
        full = platform.under(sev_chain.vendor_authority(args, exported, platform.cek))
        _check_links(full, exported.kind)
    data = full.encode() if full is not None and args.full else platform.encode()
    write_outputs([OutputFile(args.destination, data)])
    print_result(
        args, _text(args, exported, full, len(data)), _record(args, exported, full, platform, len(data))
    )
    return 0


def _check_links(chain: Chain, kind: str) -> None:
    """That every link holds. Whether to trust the root is for whoever reads its fingerprint."""
    from sealpod.sev.chain import verify_chain

    verify_chain(chain, {chain.ark.sha256: kind})


def _names(*, full: bool) -> list[str]:
    return ["PDH", "PEK", "OCA", "CEK", *(("ASK", "ARK") if full else ())]


def _record(
    args: argparse.Namespace, exported: Exported, full: Chain | None, platform: PlatformChain, size: int
) -> dict[str, Any]:
    from sealpod.sev.text import describe

    version = exported.status.version
    return {
        "platform": exported.kind,
        "identifier": exported.identifier.hex(),
        "firmware": {"api": f"{version.api_major}.{version.api_minor}", "build": version.build},
        "arkSha256": None if full is None else full.ark.sha256,
        "file": os.path.abspath(args.destination),
        "bytes": size,
        "certificates": _names(full=args.full),
        "pdh": describe(platform.pdh),
    }


def _text(args: argparse.Namespace, exported: Exported, full: Chain | None, size: int) -> str:
    lines = [
        ("file", f"{args.destination} ({', '.join(_names(full=args.full))}; {size} bytes)"),
        ("platform", exported.kind),
        ("firmware", str(exported.status.version)),
        ("identifier", exported.identifier.hex()),
    ]
    if full is not None:
        lines.append(("ARK SHA-256", full.ark.sha256))
    return "\n".join(f"{name + ':':<13}{value}" for name, value in lines)
