# SPDX-License-Identifier: Apache-2.0
"""The port to an SEV platform: what a launcher needs from the firmware, and nothing about which one it is.

A driver is either ``device`` (the kernel's ``/dev/sev`` and QEMU's own launch commands) or ``model`` (the
software firmware of :mod:`sealpod.platform.model`). Callers use both alike; ``kind`` is for what they print.

The order of one launch, each step once::

    launch = await platform.launch(spec)          the driver's part before there is a guest
    start QEMU with -S and launch.needs(...)      a QEMU that fails: launch.explain(error)
    measured = await launch.measure(guest)        LAUNCH_UPDATE_DATA..., LAUNCH_MEASURE
    await launch.inject(guest, packet)            LAUNCH_SECRET (may be left out)
    await launch.finish(guest)                    then QMP `cont`
    end QEMU
    await launch.close()                          the guest is unknown to the firmware, on every path

Who sends LAUNCH_START differs: a model at ``launch``, a device when QEMU starts. What is wrong with a session
is therefore told by one of these two, and callers treat both alike.

Failures, the same for every driver: a status of the firmware is ``FirmwareError`` with that number; a
driver that died or does not answer is ``UnavailableError``; one that may not be used is ``AccessError``; one
that is busy with guests is ``ConflictError``; a step asked for with what it needs left out of the spec is
``UsageError``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from sealpod.errors import SealpodError
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
class PlatformCertificates:
    """What PDH_CERT_EXPORT gives, 2084 bytes each. The CEK is unsigned: its issuer's key is not here."""

    pdh: bytes
    pek: bytes
    oca: bytes
    cek: bytes


@dataclass(frozen=True, slots=True)
class VendorCertificates:
    """What the chip's vendor publishes about it: the signed CEK (2084 bytes), the ASK and the ARK."""

    cek: bytes
    ask: bytes
    ark: bytes


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
    secret_size: int | None
    """Bytes of that area: what lies behind it is not the secret's to overwrite."""
    firmware_size: int
    """Bytes of flash, which ends at 4 GiB."""


@dataclass(frozen=True, slots=True)
class QemuNeeds:
    """What a driver needs of the QEMU that runs its guest. A model needs nothing special."""

    machine: tuple[str, ...] = ()
    """Properties of ``-machine``, as ``name=value``."""
    arguments: tuple[str, ...] = ()
    """More arguments."""
    accelerator: str = ""
    """The only accelerator it works with; empty when any will do."""
    confidential: bool = False
    """QEMU itself knows that the guest is confidential: the guest's RAM is private and locked in memory, and
    QEMU leaves the kernel it serves unmodified. Otherwise the RAM is a file that the driver maps too."""
    hidden_registers: bool = False
    """Nobody outside sees the registers of the running guest; what QEMU shows is old."""


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
    """One guest, until its QEMU has ended and the firmware has forgotten it."""

    def needs(self, qemu: tuple[int, int]) -> QemuNeeds:
        """What to start a QEMU of this version with."""

    def explain(self, failure: SealpodError) -> SealpodError:
        """The error to raise when QEMU did not start: the firmware's, when that is why, else ``failure``."""

    async def measure(self, guest: PausedGuest) -> Measured:
        """Measure the guest's flash, the hashes table when the spec has one, and with SEV-ES its vCPUs."""

    async def inject(self, guest: PausedGuest, packet: Packet) -> None:
        """Decrypt a secret packet into the guest's launch secret area."""

    async def attestation_report(self, guest: PausedGuest, mnonce: bytes) -> bytes:
        """The firmware's report about the measured guest, signed by its PEK, 208 bytes; 16 of ``mnonce``."""

    async def finish(self, guest: PausedGuest) -> None:
        """Seal the launch; the guest may run afterwards."""

    async def close(self) -> None:
        """Remove the guest from the firmware; its QEMU has ended. Idempotent.

        Never fails because the driver is gone.
        """


class PlatformAdmin(Protocol):
    """What the platform's owner does with it. Whatever needs an initialised platform initialises it."""

    async def status(self) -> PlatformStatus:
        """The firmware's version and state."""

    async def identifier(self) -> bytes:
        """The chip's identifier, 64 bytes."""

    async def pdh_cert_export(self) -> PlatformCertificates:
        """The platform's own certificates."""

    async def vendor_certificates(self) -> VendorCertificates | None:
        """The certificates that lead from the CEK to the vendor's root.

        None where the vendor's key server has to be asked for them, by :meth:`identifier`.
        """

    async def pek_csr(self) -> bytes:
        """The PEK's certificate without signatures, 2084 bytes: for an owner's OCA to sign."""

    async def pek_cert_import(self, pek: bytes, oca: bytes) -> None:
        """Take the platform into ownership: its PEK's certificate signed by ``oca``. Makes a new PDH."""

    async def pek_gen(self) -> None:
        """A new OCA of the platform's own, PEK and PDH; ends an outside ownership."""

    async def pdh_gen(self) -> None:
        """A new PDH. Sessions made for the old one are worthless from now on."""

    async def reset(self) -> None:
        """Delete the platform's identity and ownership; it gets a new one when it is initialised again.

        :raise ConflictError: guests are running.
        """


class Platform(PlatformAdmin, Protocol):
    """An SEV platform, ready for launches."""

    @property
    def kind(self) -> PlatformKind:
        """Which driver this is. Everything printed about a ``model`` must say so."""

    async def certificate_chain(self) -> bytes:
        """PDH, PEK, OCA, CEK (signed by the ASK), ASK, ARK, one after the other."""

    async def launch(self, spec: LaunchSpec) -> Launch:
        """Prepare a launch. What it holds is given back by the launch's ``close``."""

    async def close(self) -> None:
        """Let go of the platform and of every launch on it. Idempotent."""
