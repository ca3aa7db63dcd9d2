# SPDX-License-Identifier: Apache-2.0
"""The port to an SEV platform: what a launcher needs from the firmware, and nothing about which one it is.

A driver is either ``device`` (the kernel's ``/dev/sev`` and QEMU's own launch commands) or ``model`` (the
software firmware of :mod:`sealpod.platform.model`). Callers use both alike; ``kind`` is for what they print.

The order of one launch, each step once::

    launch = await platform.launch(spec)          LAUNCH_START, ACTIVATE
    start QEMU with -S and launch.qemu_arguments()
    measured = await launch.measure(guest)        LAUNCH_UPDATE_DATA..., LAUNCH_MEASURE
    await launch.inject(guest, packet)            LAUNCH_SECRET (may be left out)
    await launch.finish(guest)                    LAUNCH_FINISH; then QMP `cont`
    await launch.close()                          DECOMMISSION, on every path

Failures, the same for every driver: a status of the firmware is ``FirmwareError`` with that number; a
driver that died or does not answer is ``UnavailableError``; a step asked for with what it needs left out of
the spec is ``UsageError``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from sealpod.sev.measurement import FirmwareVersion, Measurement
    from sealpod.sev.packet import Packet
    from sealpod.sev.policy import Policy

PlatformKind = Literal["model", "device"]


@dataclass(frozen=True, slots=True)
class PlatformStatus:
    """What PLATFORM_STATUS says."""

    version: FirmwareVersion
    state: int
    """0 uninitialised, 1 initialised, 2 working (at least one guest)."""
    owned: bool
    """The OCA is an outside owner's, not the platform's own."""
    es: bool
    """SEV-ES guests can be launched."""
    guest_count: int


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """One guest to be launched. ``godh`` and ``session`` come together or not at all."""

    policy: Policy
    godh: bytes | None
    """The guest owner's Diffie-Hellman certificate, 2084 bytes."""
    session: bytes | None
    """The guest owner's session blob, 128 bytes."""
    hashes: bytes | None
    """The table of kernel, initrd and command line hashes, 176 bytes, to be placed and measured."""
    hashes_gpa: int | None
    """Guest physical address of the firmware's hashes area."""
    secret_gpa: int | None
    """Guest physical address of the firmware's launch secret area."""
    firmware_size: int
    """Bytes of flash, which ends at 4 GiB."""


class PausedGuest(Protocol):
    """A QEMU that has not run an instruction yet."""

    @property
    def ram_fd(self) -> int:
        """memfd of the guest's RAM: file offset = guest physical address, below 2 GiB. Stays the guest's."""

    async def qmp(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Run one QMP command and return its ``return`` value."""

    async def read_physical(self, gpa: int, size: int) -> bytes:
        """``size`` bytes of physical memory as the guest would see them, flash included."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The launch measurement and the firmware version that is part of it."""

    measurement: Measurement
    version: FirmwareVersion


class Launch(Protocol):
    """One guest known to the firmware, from LAUNCH_START to DECOMMISSION."""

    def qemu_arguments(self) -> tuple[str, ...]:
        """What this driver adds to QEMU's command line."""

    async def measure(self, guest: PausedGuest) -> Measured:
        """Measure the guest's flash and, when the spec has one, the hashes table."""

    async def inject(self, guest: PausedGuest, packet: Packet) -> None:
        """Decrypt a secret packet into the guest's launch secret area."""

    async def finish(self, guest: PausedGuest) -> None:
        """Seal the launch; the guest may run afterwards."""

    async def close(self) -> None:
        """Remove the guest from the firmware. Idempotent; never fails because the driver is gone."""


class Platform(Protocol):
    """An SEV platform, ready for launches."""

    @property
    def kind(self) -> PlatformKind:
        """Which driver this is. Everything printed about a ``model`` must say so."""

    async def status(self) -> PlatformStatus:
        """The firmware's version and state."""

    async def certificate_chain(self) -> bytes:
        """PDH, PEK, OCA, CEK (signed by the ASK), ASK, ARK, one after the other."""

    async def identifier(self) -> bytes:
        """The chip's identifier, 64 bytes."""

    async def launch(self, spec: LaunchSpec) -> Launch:
        """Register a guest with the firmware (LAUNCH_START, ACTIVATE)."""

    async def close(self) -> None:
        """Let go of the platform and of every launch on it. Idempotent."""
