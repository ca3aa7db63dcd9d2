# SPDX-License-Identifier: Apache-2.0
"""Options of every command that launches guests, and opening what they name."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from sealpod.errors import UsageError

if TYPE_CHECKING:
    from sealpod.sandbox.launch import Host
    from sealpod.sandbox.spec import GuestFiles


def add_host_arguments(parser: argparse.ArgumentParser) -> None:
    """The options, in a group of their own."""
    group = parser.add_argument_group("guest and host")
    group.add_argument("--firmware", metavar="FILE", help="AmdSev build of OVMF (default: found)")
    group.add_argument("--kernel", metavar="FILE", help="guest kernel (default: of `sealpod guest build`)")
    group.add_argument("--initrd", metavar="FILE", help="guest initrd (default: of `sealpod guest build`)")
    group.add_argument("--qemu", metavar="FILE", help="QEMU binary (default: qemu-system-x86_64)")
    group.add_argument(
        "--accelerator", choices=("auto", "kvm", "tcg"), default="auto", help="default: auto, probed by use"
    )
    group.add_argument(
        "--platform",
        choices=("auto", "model", "device"),
        default="auto",
        help="SEV firmware to launch with; auto takes the software model",
    )
    group.add_argument("--platform-state", metavar="DIR", help="where the software model keeps its keys")


def guest_files(args: argparse.Namespace) -> GuestFiles:
    """The measured files the options name, or those that were built. NotFoundError when there are none."""
    import os

    from sealpod.guestimage import firmware, locate
    from sealpod.guestimage.cache import cache_directory
    from sealpod.sandbox.spec import GuestFiles

    if args.kernel and args.initrd:
        found = args.firmware or firmware.find(cache_directory())
        return GuestFiles(*(os.path.abspath(path) for path in (found, args.kernel, args.initrd)))
    if args.kernel or args.initrd:
        raise UsageError("a kernel needs its initrd", remedy="give both --kernel and --initrd, or neither")
    image = locate(firmware_path=args.firmware)
    return GuestFiles(os.path.abspath(image.firmware), image.kernel, image.initrd)


@contextlib.asynccontextmanager
async def open_host(args: argparse.Namespace, note: Callable[[str], None]) -> AsyncIterator[Host]:
    """Platform and QEMU for the length of the block. ``note`` takes sentences for the user."""
    from sealpod.guestimage.cache import cache_directory
    from sealpod.platform.model import open_model
    from sealpod.platform.model.paths import default_state_dir
    from sealpod.qemu.acceleration import choose_accelerator
    from sealpod.qemu.binary import find_qemu
    from sealpod.sandbox.launch import Host

    if args.platform == "device":
        raise UsageError(
            "the driver for /dev/sev is not part of this version",
            code="platform.device",
            remedy="use --platform model",
        )
    qemu = await find_qemu(args.qemu)
    accelerator, why = await choose_accelerator(qemu, cache_directory(), args.accelerator)
    if accelerator == "tcg" and args.accelerator == "auto":
        note(why)
    platform = await open_model(args.platform_state or default_state_dir(), progress=note)
    try:
        yield Host(platform, qemu, accelerator)
    finally:
        await platform.close()
