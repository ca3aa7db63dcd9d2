# SPDX-License-Identifier: Apache-2.0
"""The options of ``sealpod measure``: sev-snp-measure's as it has them, and our own.

What the tool's options take, and what is said of values they do not take, is the tool's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from sealpod.cli.measure_tool import FORMATS
from sealpod.measure.vcpu import SIGNATURES

EPILOG: Final = """\
The digest is what the SEV firmware measures at launch; a key broker's policy compares it with the one the
firmware reports. With SEV-SNP it is the attestation report's MEASUREMENT. Write a reference once, and let it
name the part that differs later:

  sealpod measure --mode sev --ovmf OVMF.fd --kernel K --initrd I --append 'quiet' -o json > reference.json
  sealpod measure --mode sev --ovmf OVMF.fd --kernel K --initrd I --append 'quiet' --explain reference.json

Digests for all sizes of a guest, from one pass over the firmware:

  sealpod measure --mode snp --vcpus 1-8 --vcpu-type EPYC-v4 --ovmf OVMF.fd --kernel K --append 'quiet'

Without the firmware image, from what was once written of it:

  sealpod measure --mode snp:ovmf-hash --ovmf OVMF.fd -o json > firmware.json
  sealpod measure --mode snp --vcpus 2 --vcpu-type EPYC-v4 --ovmf-metadata firmware.json

For each size of a pod, from its node's configuration, and which part of a running one is another:

  sealpod measure --kata-config configuration-qemu-sev.toml --pod pod.yaml --vcpus 1-8
  sealpod measure explain reference.json sandbox:ID

`sealpod measure id-block --help` has the ID block of SEV-SNP guests.

Exit status: 0 done; 1 failed; 2 wrong usage; 3 a part differs from the reference; 4 a file is missing.
"""

FPU_HELP: Final = """\
FPU registers in the VMSAs of QEMU's guests. Modes seves and snp measure them: zero (legacy) or their reset
values (init2), by the call that made the VM. In mode seves the default is legacy, since QEMU's sev-guest
makes VMs by KVM_SEV_ES_INIT unless told legacy-vm-type=off; sev-snp-measure from 0.0.10 on writes init2
there. In mode snp it is init2: SEV-SNP guests of Linux 6.11 and later are made in no other way."""

QEMU: Final = "QEMU"
VMMS: Final = (QEMU, "ec2", "gce", "krun")
MODES: Final = ("sev", "seves", "snp", "snp:ovmf-hash", "snp:svsm")
_MAX_VCPUS: Final = 1 << 16
"""Per digest; no hypervisor has so many. A digest hashes a page for each."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = EPILOG
    parser.add_argument("--version", action=_Version, nargs=0, help="show sealpod's version")
    parser.add_argument("-v", "--verbose", action="store_true", help="say what the digest is")
    mode = parser.add_argument("--mode", choices=MODES, required=True, help="guest mode")
    _vcpus(parser)
    ovmf = _files(parser)
    _output(parser)
    _svsm(parser)
    _kata(parser, mode, ovmf)


def _vcpus(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--vcpus", metavar="N", type=_counts, help="number of vCPUs; 1-8 or 1,2,4 for a digest of each"
    )
    parser.add_argument(
        "--vcpu-type",
        metavar="CPUTYPE",
        choices=list(SIGNATURES),
        help=f"QEMU's CPU model ({', '.join(SIGNATURES)})",
    )
    parser.add_argument("--vcpu-sig", metavar="VALUE", type=_number("auto_base_int"), help="CPUID signature")
    for part in ("family", "model", "stepping"):
        parser.add_argument(f"--vcpu-{part}", metavar=part.upper(), type=int, help=f"CPU {part}")
    parser.add_argument("--vmm-type", metavar="VMMTYPE", default=QEMU, help=f"hypervisor ({', '.join(VMMS)})")
    parser.add_argument(
        "--guest-features",
        metavar="VALUE",
        type=_number("<lambda>"),
        default=1,
        help="SEV_FEATURES in mode snp (default 0x1)",
    )
    parser.add_argument(
        "--sev-features",
        metavar="VALUE",
        type=_number("number"),
        help="SEV_FEATURES in mode seves (default 0; 0x20 where the host enables DebugSwap) or snp",
    )
    parser.add_argument("--vmsa-fpu", choices=("legacy", "init2"), help=FPU_HELP)


def _files(parser: argparse.ArgumentParser) -> argparse.Action:
    ovmf = parser.add_argument("--ovmf", metavar="PATH", required=True, help="firmware image; - is stdin")
    parser.add_argument(
        "--ovmf-metadata",
        metavar="JSON",
        action=InsteadOf,
        of=(ovmf,),
        help="in its place in mode snp: what -o json wrote of the image",
    )
    for name, what in (("kernel", "kernel file"), ("initrd", "initrd file (with --kernel)")):
        either = parser.add_mutually_exclusive_group()
        either.add_argument(f"--{name}", metavar="PATH", help=f"{what}; - is stdin")
        either.add_argument(f"--{name}-hash", metavar="HEX", help="its SHA-256 in its place")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--append", metavar="CMDLINE", help="kernel command line (with --kernel)")
    either.add_argument(
        "--append-hash", metavar="HEX", help="SHA-256 of the line and one NUL byte in its place"
    )
    parser.add_argument(
        "--snp-ovmf-hash",
        "--ovmf-hash",
        metavar="HASH",
        help="what mode snp:ovmf-hash printed, in the place of the firmware's pages (mode snp)",
    )
    return ovmf


def _output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output-format", choices=FORMATS, default="hex", help="how the digest is printed")
    parser.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="json names every part and step"
    )
    parser.add_argument(
        "--explain", metavar="REFERENCE.json", help="say which parts differ from those of a JSON output"
    )
    parser.add_argument(
        "--policy",
        metavar="VALUE",
        type=_number("number"),
        help="the guest's policy, for JSON output and --explain; not part of the digest",
    )
    parser.add_argument(
        "--dump-vmsa", action="store_true", help="write the VMSAs to vmsa<N>.bin (not in mode sev)"
    )


def _svsm(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("mode snp:svsm", "SEV-SNP with Coconut SVSM; no kernel is measured")
    group.add_argument("--svsm", metavar="PATH", help="SVSM image")
    either = group.add_mutually_exclusive_group()
    either.add_argument("--vars-size", metavar="SIZE", type=int, help="bytes of the OVMF_VARS file")
    either.add_argument("--vars-file", metavar="PATH", help="the OVMF_VARS file, for its size")


def _kata(parser: argparse.ArgumentParser, mode: argparse.Action, ovmf: argparse.Action) -> None:
    group = parser.add_argument_group(
        "pods",
        "digests of a pod before it runs: mode, files and command line come from its node's configuration;\n"
        "the processors of SEV-ES do not: give --vcpu-family, --vcpu-model and --vcpu-stepping of the\n"
        "node's, or --vcpu-sig 0x60fb1 for a node of sealpod's runtime that has no KVM",
    )
    group.add_argument(
        "--kata-config",
        metavar="FILE",
        action=InsteadOf,
        of=(mode, ovmf),
        help="the node's Kata configuration (TOML); --ovmf, --kernel, --initrd then name copies of its files",
    )
    group.add_argument("--pod", metavar="POD.yaml", help="the pod's manifest: annotations and limits")
    group.add_argument(
        "--runtime",
        choices=("sealpod", "cc-0.3.0", "3.3.0", "3.19.1"),
        default="sealpod",
        help="what reads the configuration there: sealpod's runtime (default), or a release of Kata, which "
        "composes another command line",
    )
    group.add_argument(
        "--node-cpus",
        metavar="N",
        type=_processors,
        default=0,
        help="processors of the node: its guests have no more (default: it has enough)",
    )
    group.add_argument("--fips", action="store_true", help="the node's kernel is in FIPS mode (Kata)")


class InsteadOf(argparse.Action):
    """An option with which others need not be given."""

    def __init__(self, *args: Any, of: Sequence[argparse.Action], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._of = of

    def __call__(
        self, parser: object, namespace: argparse.Namespace, values: object, option_string: str | None = None
    ) -> None:
        setattr(namespace, self.dest, values)
        for action in self._of:
            action.required = False


class _Version(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: object,
        values: object,
        option_string: str | None = None,
    ) -> NoReturn:
        from importlib.metadata import version

        print(f"sealpod {version('sealpod')}")
        parser.exit()


def _number(name: str) -> Any:
    """A number in any of Python's bases; ``name`` is what an error calls it."""

    def number(text: str) -> int:
        try:
            return int(text, 0)
        except ValueError:
            raise argparse.ArgumentTypeError(f"invalid {name} value: {text!r}") from None

    return number


def _processors(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= _MAX_VCPUS):
        raise argparse.ArgumentTypeError(f"not a number of processors: {text[:40]!r}")
    return int(text[:9])


def _counts(text: str) -> tuple[int, ...]:
    """``4``, ``1-8``, ``1,2,4``: ascending, each once."""
    try:
        found = {count for part in text.split(",") for count in _range(part)}
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid int value: {text!r}") from None
    return tuple(sorted(found))


def _range(text: str) -> range:
    first, dash, last = text.strip().partition("-")
    if not first and dash:
        raise argparse.ArgumentTypeError(f"not a number of vCPUs: {text!r}")
    begin = int(first)
    end = int(last) if dash else begin
    if end > _MAX_VCPUS:
        raise argparse.ArgumentTypeError(f"more than {_MAX_VCPUS} vCPUs: {text!r}")
    if begin > end:
        raise ValueError(text)
    return range(begin, end + 1)
