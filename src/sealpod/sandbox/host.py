# SPDX-License-Identifier: Apache-2.0
"""Open what launches guests on this machine: the platform, QEMU, and how it accelerates."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final, Literal

from sealpod.platform.open import open_platform
from sealpod.platform.port import Platform, PlatformKind
from sealpod.qemu.acceleration import choose_accelerator
from sealpod.qemu.binary import Qemu, find_qemu

AUTO: Final = "auto"


@dataclass(frozen=True, slots=True)
class HostOptions:
    """What a user may choose. Empty strings mean the default."""

    cache: str
    """Directory where the answer of the accelerator's probe is remembered."""
    platform: PlatformKind | Literal["auto", "none"] = "auto"
    """``none`` for plain virtual machines only."""
    platform_state: str = ""
    """Where a software model keeps its keys."""
    cert_chain: str = ""
    """File with the certificate chain of a device."""
    qemu: str = ""
    accelerator: str = AUTO


@dataclass(frozen=True, slots=True)
class Host:
    """What launches guests on this machine."""

    platform: Platform | None
    qemu: Qemu
    accelerator: str


@contextlib.asynccontextmanager
async def open_host(options: HostOptions, note: Callable[[str], None]) -> AsyncIterator[Host]:
    """Platform and QEMU for the length of the block. ``note`` takes sentences for the user."""
    qemu = await find_qemu(options.qemu or None)
    accelerator, why = await choose_accelerator(qemu, options.cache, options.accelerator)
    if accelerator == "tcg" and options.accelerator == AUTO:
        note(why)
    if options.platform == "none":
        yield Host(None, qemu, accelerator)
        return
    platform = await open_platform(
        options.platform,
        options.platform_state or None,
        progress=note,
        chain_file=options.cert_chain or None,
    )
    try:
        yield Host(platform, qemu, accelerator)
    finally:
        await platform.close()
