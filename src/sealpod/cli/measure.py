# SPDX-License-Identifier: Apache-2.0
"""``sealpod measure``: the launch digest of a guest, from its files.

Options, text output and exit status follow sev-snp-measure 0.0.13, so that scripts written for it work; the
JSON output and the comparison are sealpod's own. Only mode ``sev`` is there; the options of other modes are
known so that asking for one gets a clear answer.
"""

from __future__ import annotations

import argparse
import base64
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from sealpod.errors import AccessError, NotFoundError, OperationError, UsageError, VerificationError

if TYPE_CHECKING:
    from sealpod.measure.components import Components
    from sealpod.measure.explain import Difference

HELP: Final = "Calculate the launch digest of a guest"

EPILOG: Final = """\
The digest is what the SEV firmware measures at launch; a key broker's policy compares it with the one the
firmware reports. Write a reference once, and let it name the part that differs later:

  sealpod measure --mode sev --ovmf OVMF.fd --kernel K --initrd I --append 'quiet' -o json > reference.json
  sealpod measure --mode sev --ovmf OVMF.fd --kernel K --initrd I --append 'quiet' --explain reference.json

Exit status: 0 done; 1 failed; 2 wrong usage; 3 a part differs from the reference; 4 a file is missing.
"""

_MODES: Final = ("sev", "seves", "snp", "snp:ovmf-hash", "snp:svsm")
_DIFFERS: Final = VerificationError.exit_status

# Options of the other modes. In mode sev the tool takes these and does nothing with them.
_IGNORED: Final = (
    "--vcpus",
    "--vcpu-type",
    "--vcpu-sig",
    "--vcpu-family",
    "--vcpu-model",
    "--vcpu-stepping",
    "--vmm-type",
    "--guest-features",
    "--svsm",
    "--vars-size",
    "--vars-file",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = EPILOG
    parser.add_argument("--mode", choices=_MODES, required=True, help="guest mode (this version: sev)")
    parser.add_argument("--ovmf", metavar="PATH", required=True, help="firmware image")
    parser.add_argument("--kernel", metavar="PATH", help="kernel file")
    parser.add_argument("--initrd", metavar="PATH", help="initrd file (with --kernel)")
    parser.add_argument("--append", metavar="CMDLINE", help="kernel command line (with --kernel)")
    parser.add_argument(
        "--output-format", choices=("hex", "base64"), default="hex", help="how the digest is printed"
    )
    parser.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="json also names every measured part"
    )
    parser.add_argument(
        "--explain", metavar="REFERENCE.json", help="say which parts differ from those of a JSON output"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say what the digest is")
    for option in _IGNORED:
        parser.add_argument(option, help=argparse.SUPPRESS)
    parser.add_argument("--snp-ovmf-hash", help=argparse.SUPPRESS)
    parser.add_argument("--dump-vmsa", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Measure, then print or compare. Returns the exit status."""
    _check_usage(args)
    from sealpod.measure.components import Components

    actual = Components.of(
        _read(args.ovmf),
        None if args.kernel is None else _read(args.kernel),
        None if args.initrd is None else _read(args.initrd),
        args.append,
    )
    if args.explain is not None:
        return _explain(args, actual)
    if args.output == "json":
        print(actual.to_json())
        return 0
    digest = actual.digest
    if args.output_format == "base64":
        digest = base64.b64encode(bytes.fromhex(digest)).decode()
    print(f"Calculated SEV guest measurement: {digest}" if args.verbose else digest)
    return 0


def _check_usage(args: argparse.Namespace) -> None:
    if args.mode != "sev":
        raise UsageError(
            f"mode {args.mode} is not available in this version",
            code="measure.mode",
            remedy="only --mode sev is; SEV-ES and SEV-SNP guests cannot be measured yet",
        )
    for option, value in (("--initrd", args.initrd), ("--append", args.append)):
        if value and args.kernel is None:
            raise UsageError(f"--kernel required when using {option}", code="measure.kernel")
    if args.dump_vmsa or args.snp_ovmf_hash:
        option = "--dump-vmsa" if args.dump_vmsa else "--snp-ovmf-hash"
        raise UsageError(f"{option} is not available in mode sev", code="measure.mode")


def _explain(args: argparse.Namespace, actual: Components) -> int:
    from sealpod.measure.components import Components
    from sealpod.measure.explain import explain

    differences = explain(Components.from_json(_read(args.explain)), actual)
    if args.output == "json":
        record = {
            "schemaVersion": 1,
            "digest": actual.digest,
            "differences": [{"part": found.part, "detail": found.detail} for found in differences],
        }
        print(json.dumps(record, indent=2))
    else:
        _print_differences(differences)
    return _DIFFERS if differences else 0


def _print_differences(differences: Sequence[Difference]) -> None:
    for difference in differences:
        print(difference)
    if not differences:
        print("no part differs from the reference")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise NotFoundError(f"no such file: {path}", code="file.missing") from None
    except PermissionError:
        raise AccessError(f"no permission to read {path}", code="file.permission") from None
    except OSError as error:
        raise OperationError(f"cannot read {path}: {error.strerror}", code="file.unreadable") from None
