# SPDX-License-Identifier: Apache-2.0
"""``sealpod sev show``: one fact about the platform, as sevctl prints it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final

from sealpod.cli.sev_common import (
    ASKING_IDENTIFIER,
    ASKING_STATUS,
    add_output,
    add_platform,
    on_platform,
    print_result,
    step,
)

if TYPE_CHECKING:
    from sealpod.platform.port import Platform, PlatformStatus

FACTS: Final = ("version", "flags", "identifier", "guests")

EPILOG: Final = """\
  version      MAJOR.MINOR.BUILD of the firmware
  flags        a line "owned" when an owner's OCA is installed, a line "es" when SEV-ES guests can be launched
  identifier   the chip's identifier (GET_ID), by which AMD's key server knows it
  guests       how many guests the firmware has

A software model is a process of whoever uses it; together those of one state directory are one machine, and
all their guests count. Which pods they are is listed by `sealpod sandbox ls`.
"""


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = EPILOG
    parser.add_argument("fact", choices=FACTS, help="what to show")
    add_platform(parser)
    add_output(parser, _run)


def _run(args: argparse.Namespace) -> int:
    async def collect(platform: Platform) -> tuple[PlatformStatus, bytes]:
        status = await step(ASKING_STATUS, platform.status())
        if args.fact != "identifier":
            return status, b""
        return status, await step(ASKING_IDENTIFIER, platform.identifier())

    kind, (status, identifier) = on_platform(args, collect)
    text, value = _fact(args.fact, status, identifier)
    print_result(args, text, {"platform": kind, args.fact: value})
    return 0


def _fact(name: str, status: PlatformStatus, identifier: bytes) -> tuple[str, Any]:
    """As text and as JSON."""
    if name == "version":
        version = status.version
        text = f"{version.api_major}.{version.api_minor}.{version.build}"
        return text, {"apiMajor": version.api_major, "apiMinor": version.api_minor, "build": version.build}
    if name == "flags":
        flags = [flag for flag, there in (("owned", status.owned), ("es", status.es)) if there]
        return "\n".join(flags), {"owned": status.owned, "es": status.es}
    if name == "identifier":
        return identifier.hex().upper(), identifier.hex().upper()
    return str(status.guest_count), status.guest_count
