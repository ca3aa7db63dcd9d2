# SPDX-License-Identifier: Apache-2.0
"""``sealpod measure``: the launch digest of a guest, from its files.

Options, text output, exit status and error texts follow sev-snp-measure 0.0.13, so that scripts written for
it work, with abbreviated options too; vCPU ranges, hashes in the place of files, the JSON output and the
comparison are sealpod's own. :mod:`sealpod.cli.measure_options` declares the options.

Imports are late here: the command starts and ends as fast as the tool it replaces.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from sealpod.cli.measure_options import add_arguments
from sealpod.cli.measure_tool import adapt
from sealpod.errors import UsageError

if TYPE_CHECKING:
    from sealpod.cli.measure_input import Inputs
    from sealpod.measure.components import Components
    from sealpod.measure.sevlaunch import Launch
    from sealpod.measure.vcpus import Vcpus

__all__ = ["HELP", "adapt", "add_arguments", "run"]

HELP: Final = "Calculate the launch digest of a guest"


def run(args: argparse.Namespace) -> int:
    """Measure, then print or compare. Returns the exit status."""
    if args.kata_config is not None:
        from sealpod.cli import measure_kata

        return measure_kata.run(args)
    if args.mode == "snp:ovmf-hash":
        return _ovmf_hash(args)
    inputs, vcpus, launch = _launch(args)
    if args.dump_vmsa:
        from sealpod.cli.measure_output import dump

        dump(launch.pages)
    if args.explain is None and args.output == "text":
        from sealpod.cli.measure_output import print_digests

        print_digests(launch, args.output_format, args.verbose)
        return 0
    return _report(args, inputs, launch, vcpus)


def measured(args: argparse.Namespace) -> tuple[Components, ...]:
    """What these options measure, one for each number of vCPUs; nothing is printed."""
    if args.kata_config is not None:
        from sealpod.cli import measure_kata

        return measure_kata.measured(args)
    if args.mode == "snp:ovmf-hash":
        raise UsageError("a firmware alone is no guest", code="measure.mode", remedy="give its mode")
    return _components(args, *_launch(args))


def _launch(args: argparse.Namespace) -> tuple[Inputs, Vcpus | None, Launch]:
    from sealpod.cli.measure_input import Inputs, check_vmm, vcpus_of

    _check_kernel(args)
    if args.mode == "sev":
        vcpus = None
        check_vmm(args)
    else:
        vcpus = vcpus_of(args)
    inputs = Inputs(args)
    _check_mode(args, inputs)
    return inputs, vcpus, _measure(args, inputs, vcpus)


def _measure(args: argparse.Namespace, inputs: Inputs, vcpus: Vcpus | None) -> Launch:
    from sealpod.measure.sevlaunch import SEV_ES, SNP_SVSM, measure_sev, measure_seves

    if vcpus is None:
        return measure_sev(inputs.firmware(), inputs.table())
    if args.mode == SEV_ES:
        return measure_seves(inputs.firmware(), inputs.table(), vcpus)
    from sealpod.measure.snplaunch import measure_snp, measure_svsm

    if args.mode == SNP_SVSM:
        return measure_svsm(inputs.firmware(), inputs.svsm, inputs.vars_size(), vcpus)
    return measure_snp(inputs.firmware(), inputs.table(), vcpus)


def _ovmf_hash(args: argparse.Namespace) -> int:
    from sealpod.cli.measure_input import Inputs

    if args.explain is not None:
        raise UsageError("--explain needs the mode of a guest", code="measure.mode")
    firmware = Inputs(args).firmware()
    digest = firmware.snp_hash()
    if args.output == "json":
        from sealpod.cli.measure_output import print_json
        from sealpod.measure.document import ovmf_hash_document

        print_json(ovmf_hash_document(firmware.ovmf, digest))
    else:
        print(digest.hex())
    return 0


def _check_kernel(args: argparse.Namespace) -> None:
    kernel = args.kernel if args.kernel_hash is None else args.kernel_hash
    given = {
        "--initrd": args.initrd,
        "--initrd-hash": args.initrd_hash,
        "--append": args.append,
        "--append-hash": args.append_hash,
    }
    for option, value in given.items():
        if value and kernel is None:
            raise UsageError(f"--kernel required when using {option}", code="measure.kernel")


def _check_mode(args: argparse.Namespace, inputs: Inputs) -> None:
    """What an option and a mode have to do with each other."""
    if args.mode == "snp:svsm":
        inputs.vars_size()
        if not args.svsm:
            raise UsageError("snp:svsm mode requires --svsm", code="measure.svsm")
    if args.dump_vmsa and args.mode == "sev":
        # The tool's spelling; scripts may look for it.
        raise UsageError("--dump-vmsa is not availibe in the selected mode", code="measure.mode")
    if args.snp_ovmf_hash and args.mode != "snp":
        raise UsageError("SNP OVMF hash only works with SNP", code="measure.mode")


def _report(args: argparse.Namespace, inputs: Inputs, launch: Launch, vcpus: Vcpus | None) -> int:
    """The digest with all its parts, as JSON or against a reference."""
    from sealpod.cli.measure_output import print_json

    components = _components(args, inputs, vcpus, launch)
    if args.explain is not None:
        from sealpod.cli.measure_output import compare_with

        return compare_with(args.explain, components, args.output)
    from sealpod.measure.document import document

    print_json(document(launch, inputs.firmware().ovmf, components))
    return 0


def _components(
    args: argparse.Namespace, inputs: Inputs, vcpus: Vcpus | None, launch: Launch
) -> tuple[Components, ...]:
    from sealpod.measure.components import Components

    return Components.of_launch(
        launch, inputs.cmdline(), vcpus, args.policy, inputs.svsm_hash(), inputs.measured_vars
    )
