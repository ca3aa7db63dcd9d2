# SPDX-License-Identifier: Apache-2.0
"""``sealpod sev vmsa``: the pages of a SEV-ES guest's vCPUs, built, shown and updated as sevctl does."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any, Final

from sealpod.cli.sev_common import (
    LARGE_FILE,
    add_verb,
    add_verbs,
    note,
    number_argument,
    print_result,
    read_file,
)
from sealpod.errors import OperationError

if TYPE_CHECKING:
    from sealpod.sev.vmsapage import Sku

EPILOG: Final = """\
CPU 0 starts at the reset vector. The other vCPUs of QEMU start where OVMF has them start, so their page needs
--firmware; krun's start at 0x91000. --family, --model and --stepping are the vCPU type's (EPYC-Milan: 25, 1,
1). `update` changes signature and start address in place and leaves every other byte.
"""


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs and their options."""
    verbs = add_verbs(parser)
    for name, text, execute in (
        ("build", "write the page of a vCPU", _build),
        ("update", "change signature or start address of a page", _update),
    ):
        verb = add_verb(verbs, name, text, execute, EPILOG)
        verb.add_argument("file", metavar="FILE", help="the page, 4096 bytes")
        verb.add_argument("--cpu", metavar="N", required=True, help="number of the vCPU, from 0")
        verb.add_argument(
            "--userspace", choices=("qemu", "krun"), required=True, help="the program that runs the guest"
        )
        for option in ("family", "model", "stepping"):
            verb.add_argument(f"--{option}", metavar="N", default="0", help=f"{option} of the CPU")
        verb.add_argument("--firmware", metavar="FILE", help="the guest's OVMF")
    show = add_verb(verbs, "show", "print a page's fields as JSON", _show)
    show.add_argument("file", metavar="FILE", help="the page, 4096 bytes")


def _build(args: argparse.Namespace) -> int:
    from sealpod.sev.vmsapage import build

    cpu, reset_address = number_argument("--cpu", args.cpu), _reset_address(args)
    if cpu and reset_address is None and args.userspace == "qemu":
        note(f"without --firmware, CPU {cpu} is given the start address of CPU 0")
    _write(args, build(args.userspace, cpu, sku=_sku(args), reset_address=reset_address))
    return 0


def _update(args: argparse.Namespace) -> int:
    from sealpod.sev.vmsapage import update

    cpu, page = number_argument("--cpu", args.cpu), _read_page(args.file)
    changed = update(page, args.userspace, cpu, sku=_sku(args), reset_address=_reset_address(args))
    _write(args, changed)
    return 0


def _show(args: argparse.Namespace) -> int:
    from sealpod.sev.vmsafields import decode, to_json

    page = _read_page(args.file)
    if args.output == "json":
        fields: dict[str, Any] = {"schemaVersion": 1, **decode(page)}
        print(json.dumps(fields))
    else:
        print(to_json(page))
    return 0


def _read_page(path: str) -> bytes:
    from sealpod.sev.vmsafields import check_page

    return check_page(read_file(path))


def _write(args: argparse.Namespace, page: bytes) -> None:
    import hashlib

    from sealpod.cli.outputs import OutputFile, write_outputs

    write_outputs([OutputFile(args.file, page)])
    # sevctl prints nothing.
    print_result(args, "", {"file": args.file, "sha256": hashlib.sha256(page).hexdigest()})


def _sku(args: argparse.Namespace) -> Sku:
    from sealpod.sev.vmsapage import Sku

    return Sku(
        number_argument("--family", args.family),
        number_argument("--model", args.model),
        number_argument("--stepping", args.stepping),
    )


def _reset_address(args: argparse.Namespace) -> int | None:
    """Where the firmware has the second and later vCPUs start, when it is given and counts."""
    if args.firmware is None:
        return None
    from sealpod.measure.ovmf import Ovmf

    address = Ovmf.parse(read_file(args.firmware, LARGE_FILE)).reset_address
    if not address:
        raise OperationError(
            "error getting OVMF reset address: the firmware does not tell where its other vCPUs start",
            code="vmsa.reset-address",
            remedy="use a build of OVMF made for SEV",
        )
    return address
