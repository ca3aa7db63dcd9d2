# SPDX-License-Identifier: Apache-2.0
"""Options of every command that launches guests."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sealpod.errors import UsageError

if TYPE_CHECKING:
    from sealpod.sandbox.host import HostOptions
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
        help="SEV firmware to launch with; auto takes /dev/sev where it can be used, else the software model",
    )
    group.add_argument(
        "--cert-chain",
        metavar="FILE",
        help="certificate chain of the platform behind /dev/sev (default: /opt/sev/cert_chain.cert)",
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


def host_options(args: argparse.Namespace, *, platform_state: str = "") -> HostOptions:
    """The options as the sandbox takes them."""
    from sealpod.guestimage.cache import cache_directory
    from sealpod.sandbox.host import HostOptions

    return HostOptions(
        cache=cache_directory(),
        platform=args.platform,
        platform_state=platform_state or args.platform_state or "",
        cert_chain=args.cert_chain or "",
        qemu=args.qemu or "",
        accelerator=args.accelerator,
    )
