# SPDX-License-Identifier: Apache-2.0
"""``sealpod run``: one container in one measured guest."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import sys
from typing import TYPE_CHECKING

from sealpod.cli.hostoptions import add_host_arguments, guest_files, host_options
from sealpod.cli.progress import Progress
from sealpod.errors import SealpodError, UsageError

if TYPE_CHECKING:
    from sealpod.sandbox.cmdline import KbcMode
    from sealpod.sandbox.spec import PodSpec
    from sealpod.sandbox.timeline import Observation

HELP = """\
Run a container image in a virtual machine that is measured before it starts.

With a key broker (--kbs) the guest is attested: the broker compares the measurement with the guest owner's
policy and releases the image key only to that guest. Without SEV hardware a software model of the firmware
does the firmware's part; it protects nothing from this machine's owner, and a broker refuses it unless told
otherwise. Loopback addresses of registry and broker mean this machine's.

  sealpod run localhost:5000/app:v1 -- echo hello
  sealpod run --kbs localhost:44444 --kbc online registry.example/app:v1
  sealpod run --dry-run -o json registry.example/app:v1     what would be launched, and its launch digest
"""

KBC_MODES = ("online", "offline", "none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``sealpod run``."""
    parser.add_argument("image", metavar="IMAGE", help="image reference, as in registry/name:tag")
    parser.add_argument("args", metavar="ARGS", nargs="*", help="command instead of the image's, after `--`")
    parser.add_argument("--kbs", metavar="HOST:PORT", default="", help="key broker")
    parser.add_argument(
        "--kbs-ca",
        metavar="FILE",
        default=os.environ.get("SEALPOD_BROKER_CA", ""),
        help="speak TLS to the key broker, and believe these PEM authorities (default: $SEALPOD_BROKER_CA, "
        "else plain HTTP/2)",
    )
    parser.add_argument(
        "--kbs-cert",
        metavar="FILE",
        default=os.environ.get("SEALPOD_BROKER_CERT", ""),
        help="PEM certificate for a key broker that wants one (default: $SEALPOD_BROKER_CERT)",
    )
    parser.add_argument(
        "--kbs-key",
        metavar="FILE",
        default=os.environ.get("SEALPOD_BROKER_KEY", ""),
        help="its PEM key, this user's alone (default: $SEALPOD_BROKER_KEY, else in --kbs-cert)",
    )
    parser.add_argument(
        "--kbs-guest",
        metavar="HOST:PORT",
        default="",
        help="where the guest reaches the key broker (default: as --kbs); it speaks plain HTTP/2",
    )
    parser.add_argument(
        "--kbc",
        choices=KBC_MODES,
        help="how the guest gets image keys: online asks the broker, offline has them injected, none has no "
        "keys (default: online with --kbs, else none)",
    )
    parser.add_argument("--keyset", metavar="ID", help="keyset to ask the broker for (default: KEYSET-1)")
    parser.add_argument(
        "--policy",
        metavar="N",
        default="3",
        help="SEV guest policy, decimal or 0x (default: 3, NODBG and NOKS; 4 makes an SEV-ES guest, whose "
        "vCPUs are measured)",
    )
    parser.add_argument("--memory", metavar="MIB", type=int, help="guest memory (default: 2048)")
    parser.add_argument("--cpus", metavar="N", type=int, help="virtual CPUs (default: 1)")
    parser.add_argument(
        "--insecure-registry",
        metavar="HOST:PORT",
        action="append",
        default=[],
        help="registry to speak plain HTTP to (repeat; loopback ones are included)",
    )
    parser.add_argument(
        "--append", metavar="WORDS", default="", help="more words for the kernel command line"
    )
    parser.add_argument(
        "--reference",
        metavar="FILE",
        help="components recorded by `sealpod measure -o json`: on a refusal, name the parts that differ",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be launched, launch nothing")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="with --dry-run")
    parser.add_argument("--debug", action="store_true", help="verbose guest; its console on a failure")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    add_host_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """The container's exit status."""
    from sealpod.cli.aio import run_async

    spec, image = _pod(args)
    if args.dry_run:
        return run_async(_dry_run(args, spec))
    progress = Progress(quiet=args.quiet)
    return run_async(_run(args, spec, image, progress), lambda: progress.current)


def _pod(args: argparse.Namespace) -> tuple[PodSpec, str]:
    from sealpod.oci.reference import ImageReference
    from sealpod.sandbox import network, spec
    from sealpod.sandbox.brokertls import BrokerTls
    from sealpod.sev.policy import Policy

    reference = ImageReference.parse(args.image.removeprefix("docker://"))
    insecure = [network.from_guest(host) for host in args.insecure_registry]
    registry = network.from_guest(reference.registry)
    if registry != reference.registry and registry not in insecure:
        insecure.append(registry)
    kbc: KbcMode = args.kbc or ("online" if args.kbs else "none")
    if kbc != "none":
        if not args.kbs:
            raise UsageError(f"--kbc {kbc} needs a key broker", remedy="give --kbs HOST:PORT")
        network.split_host_port(args.kbs, what="--kbs")
    tls = BrokerTls.of(args.kbs_ca, args.kbs_cert, args.kbs_key)
    if args.kbs_guest:
        network.split_host_port(args.kbs_guest, what="--kbs-guest")
    elif tls is not None and kbc == "online":
        raise UsageError(
            "the guest's own client speaks plain HTTP/2, and --kbs is a listener with TLS",
            remedy="give --kbs-guest HOST:PORT (`kbs serve --guest-listen`), or --kbc offline",
        )
    pod = spec.PodSpec(
        files=guest_files(args),
        policy=Policy.parse(args.policy),
        kbc=kbc,
        kbs=args.kbs if kbc != "none" else "",
        kbs_tls=tls,
        kbs_guest=args.kbs_guest,
        keyset=args.keyset or spec.DEFAULT_KEYSET,
        memory=args.memory if args.memory is not None else spec.DEFAULT_MEMORY,
        cpus=args.cpus if args.cpus is not None else spec.DEFAULT_CPUS,
        insecure_registries=tuple(insecure),
        extra_cmdline=tuple(args.append.split()),
        debug=args.debug,
    )
    return pod, str(reference).replace(reference.registry, registry, 1)


async def _dry_run(args: argparse.Namespace, spec: PodSpec) -> int:
    from sealpod.sandbox.inputs import read_inputs
    from sealpod.sev.policy import PolicyFlag

    signature = await _signature(args) if PolicyFlag.ES in spec.policy.flags else 0
    inputs = await read_inputs(spec, lambda: signature)
    measured = inputs.components
    if args.output == "json":
        print(measured.to_json())
        return 0
    lines = [
        ("firmware", spec.files.firmware),
        ("kernel", spec.files.kernel),
        ("initrd", spec.files.initrd),
        ("command line", inputs.cmdline),
    ]
    if measured.signature is not None:
        lines.append(("vCPUs", f"{measured.vcpus}, signature {measured.signature:#x}"))
    lines.append(("launch digest", measured.digest))
    for label, value in lines:
        print(f"{label:<14} {value}")
    return 0


async def _signature(args: argparse.Namespace) -> int:
    """Of the vCPUs a guest gets here: it depends on whether they are emulated."""
    from sealpod.guestimage.cache import cache_directory
    from sealpod.qemu.acceleration import choose_accelerator
    from sealpod.qemu.binary import find_qemu
    from sealpod.qemu.vcpu import vcpu_signature

    accelerator, _ = await choose_accelerator(
        await find_qemu(args.qemu or None), cache_directory(), args.accelerator
    )
    return vcpu_signature(accelerator)


async def _run(args: argparse.Namespace, spec: PodSpec, image: str, progress: Progress) -> int:
    from sealpod.sandbox.host import open_host
    from sealpod.sandbox.timeline import Observation, Timeline

    seen = Observation(Timeline(on_start=progress.phase))

    def write(stream: int, data: bytes) -> None:
        progress.clear()
        target = sys.stdout.buffer if stream == 1 else sys.stderr.buffer
        target.write(data)
        target.flush()

    try:
        # The broker's library takes as long to load as the platform to start.
        loading = asyncio.create_task(asyncio.to_thread(importlib.import_module, "sealpod.sandbox.pod"))
        async with open_host(host_options(args), progress.note) as host:
            run_pod = (await loading).run_pod
            if host.platform is not None and host.platform.kind == "model":
                progress.note("software model of the SEV firmware: measured and attested, not protected")
            status: int = await run_pod(
                host,
                spec,
                image,
                args.args,
                seen,
                stdout=lambda data: write(1, data),
                stderr=lambda data: write(2, data),
            )
            return status
    except SealpodError as error:
        progress.clear()
        _explain(args, seen, error)
        raise
    finally:
        progress.clear()


def _explain(args: argparse.Namespace, seen: Observation, error: SealpodError) -> None:
    """What an error's one line has no room for: the console, and the parts that differ from a reference."""
    console = getattr(error, "console", ()) or (seen.console if args.debug else ())
    for line in console:
        print(f"  console | {line}", file=sys.stderr)
    if args.reference and seen.record is not None:
        from sealpod.measure.components import Components
        from sealpod.measure.explain import explain

        with open(args.reference, encoding="utf-8") as source:
            reference = Components.from_json(source.read())
        for difference in explain(reference, seen.record.components):
            print(f"  differs from the reference | {difference.part}: {difference.detail}", file=sys.stderr)
