# SPDX-License-Identifier: Apache-2.0
"""``sealpod sev measurement build``: what LAUNCH_MEASURE must answer for a guest, from what it is made of."""

from __future__ import annotations

import argparse
import base64
from typing import TYPE_CHECKING, Any, Final

from sealpod.cli.sev_common import (
    LARGE_FILE,
    add_verb,
    add_verbs,
    base64_or_path,
    from_base64,
    key_argument,
    note,
    number_argument,
    print_result,
    read_file,
)
from sealpod.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sealpod.sev.policy import Policy

EPILOG: Final = """\
Prints base64 of MEASURE and nonce, 48 bytes: equal to what the platform answers (QMP
query-sev-launch-measure, virsh domlaunchsecinfo) exactly when the guest was started from these parts, under
this policy, with this TIK. Firmware version, build and nonce are the platform's words; the TIK makes them
count.

  sealpod sev measurement build --api-major 0 --api-minor 24 --build-id 15 --policy 3 --tik vm_tik.bin \\
      --launch-measure-blob "$BLOB" --firmware OVMF.fd --kernel K --initrd I --cmdline C
"""

MAX_CPUS: Final = 4096
"""As many as KVM ever gives a guest; keeps a mistyped number from hashing for days."""


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the verb and its options."""
    verbs = add_verbs(parser)
    build = add_verb(verbs, "build", "calculate a launch measurement", _run, EPILOG)
    for option, what in (
        ("--api-major", "SEV API major version of the platform's firmware"),
        ("--api-minor", "SEV API minor version"),
        ("--build-id", "build of the firmware"),
        ("--policy", "the guest's policy"),
    ):
        build.add_argument(option, metavar="N", required=True, help=f"{what} (decimal or 0x)")
    build.add_argument(
        "--tik",
        metavar="FILE|BASE64",
        required=True,
        help="the session's TIK, or sev-tool's tmp_tk.bin; give a file",
    )
    build.add_argument("--nonce", metavar="FILE|BASE64", help="the platform's nonce, 16 bytes")
    build.add_argument(
        "--launch-measure-blob",
        metavar="FILE|BASE64",
        help="the platform's answer, 48 bytes, to take the nonce from",
    )
    build.add_argument("--launch-digest", metavar="BASE64", help="the launch digest, in place of files")
    build.add_argument("--firmware", metavar="FILE", help="firmware image")
    for option, what in (("--kernel", "kernel"), ("--initrd", "initrd")):
        build.add_argument(option, metavar="FILE", help=f"{what}, measured through its hash")
    build.add_argument("--cmdline", metavar="TEXT", help="kernel command line")
    build.add_argument("--num-cpus", metavar="N", help="how many vCPUs a SEV-ES guest has (decimal or 0x)")
    build.add_argument("--vmsa-cpu0", metavar="FILE", help="page of the first vCPU")
    build.add_argument("--vmsa-cpu1", metavar="FILE", help="page of each other vCPU")
    build.add_argument("--outfile", metavar="FILE", help="write the 48 bytes there")


def _run(args: argparse.Namespace) -> int:
    from sealpod.cli.outputs import OutputFile, write_outputs
    from sealpod.sev.measurement import Measurement, compute_measurement
    from sealpod.sev.policy import Policy
    from sealpod.sev.version import FirmwareVersion

    policy = Policy(number_argument("--policy", args.policy))
    version = FirmwareVersion(
        number_argument("--api-major", args.api_major),
        number_argument("--api-minor", args.api_minor),
        number_argument("--build-id", args.build_id),
    )
    digest = _digest(args, policy)
    tik = key_argument("--tik", args.tik)
    nonce = _nonce(args)
    measurement = Measurement(compute_measurement(tik, version, policy, digest, nonce), nonce)
    encoded = base64.b64encode(measurement.encode()).decode()
    if args.outfile is not None:
        write_outputs([OutputFile(args.outfile, measurement.encode())])
    text = encoded if args.outfile is None else f"Wrote outfile: {args.outfile}"
    print_result(args, text, _record(args, measurement, digest, encoded))
    return 0


def _record(args: argparse.Namespace, measurement: Any, digest: bytes, encoded: str) -> dict[str, Any]:
    return {
        "measurement": encoded,
        "measure": measurement.measure.hex(),
        "nonce": measurement.mnonce.hex(),
        "launchDigest": digest.hex(),
        "outfile": args.outfile,
    }


def _nonce(args: argparse.Namespace) -> bytes:
    from sealpod.sev.measurement import NONCE_SIZE, Measurement

    if args.nonce is not None:
        nonce = base64_or_path("--nonce", args.nonce)
        if len(nonce) != NONCE_SIZE:
            raise UsageError(f"--nonce has {len(nonce)} bytes, not {NONCE_SIZE}", code="measurement.length")
        return nonce
    if args.launch_measure_blob is not None:
        return Measurement.decode(base64_or_path("--launch-measure-blob", args.launch_measure_blob)).mnonce
    raise UsageError("One of --nonce or --launch-measure-blob must be specified.")


def _digest(args: argparse.Namespace, policy: Policy) -> bytes:
    if args.launch_digest is not None:
        if args.firmware is not None:
            note("--launch-digest counts; the files are not read")
        return from_base64("--launch-digest", args.launch_digest)
    if args.firmware is None:
        raise UsageError("One of --firmware or --launch-digest must be specified.")
    from sealpod.measure.digest import seves_digest

    table = _kernel_table(args)
    pages = _pages(args, policy)
    return seves_digest(read_file(args.firmware, LARGE_FILE), table, pages)


def _kernel_table(args: argparse.Namespace) -> bytes | None:
    given = [value is not None for value in (args.kernel, args.initrd, args.cmdline)]
    if not any(given):
        return None
    if not all(given):
        raise UsageError("--kernel, --initrd, --cmdline must be specified together")
    from sealpod.measure.hashes import HashesTable

    kernel, initrd = read_file(args.kernel, LARGE_FILE), read_file(args.initrd, LARGE_FILE)
    return HashesTable.of(kernel, initrd, args.cmdline).encode()


def _pages(args: argparse.Namespace, policy: Policy) -> Iterator[bytes]:
    from itertools import chain, repeat

    from sealpod.sev.policy import PolicyFlag
    from sealpod.sev.vmsafields import check_page

    given = [value is not None for value in (args.num_cpus, args.vmsa_cpu0, args.vmsa_cpu1)]
    if PolicyFlag.ES not in policy.flags:
        if any(given):
            note("the policy has no SEV-ES bit, so no vCPU is measured; the VMSA options have no effect")
        return iter(())
    if args.num_cpus is None:
        raise UsageError("SEV-ES policy bit is set, CPU/VMSA info must be specified")
    if not all(given):
        raise UsageError("--num-cpus, --vmsa-cpu0, --vmsa-cpu1 must be specified together")
    count = number_argument("--num-cpus", args.num_cpus)
    if not 1 <= count <= MAX_CPUS:
        raise UsageError(f"--num-cpus is 1 to {MAX_CPUS}, not {count}")
    first, other = (check_page(read_file(path)) for path in (args.vmsa_cpu0, args.vmsa_cpu1))
    return chain((first,), repeat(other, count - 1))
