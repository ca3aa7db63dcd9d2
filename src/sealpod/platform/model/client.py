# SPDX-License-Identifier: Apache-2.0
"""The platform port over the software firmware.

Who reads what: QEMU itself writes out the flash as its guest sees it (QMP ``pmemsave``, behind
``read_physical``); the bytes go to the firmware's process in a sealed memfd, so that nobody changes them
between reading and measuring. The hashes table is written into the guest's RAM first and then read from there
by the firmware, as is the place of the secret: what is measured is what is in the guest.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeVar

from sealpod.errors import (
    ConflictError,
    FirmwareError,
    OperationError,
    SealpodError,
    UnavailableError,
    UsageError,
)
from sealpod.platform.model.channel import Channel, GuestMemory
from sealpod.platform.model.commands import Command
from sealpod.platform.model.firmware import CHAIN_SIZE, IDENTIFIER_SIZE, PlatformState
from sealpod.platform.model.guests import MAX_ASID
from sealpod.platform.model.process import ModelProcess
from sealpod.platform.model.server import FLASH, RAM
from sealpod.platform.port import (
    LaunchSpec,
    Measured,
    PausedGuest,
    PlatformCertificates,
    PlatformKind,
    PlatformStatus,
    QemuNeeds,
    VendorCertificates,
)
from sealpod.sev import cert
from sealpod.sev.measurement import MEASUREMENT_SIZE, Measurement
from sealpod.sev.packet import Packet
from sealpod.sev.status import Status
from sealpod.sev.version import FirmwareVersion

TOP_OF_FLASH: Final = 4 << 30
"""Guest physical address at which the flash ends."""

INIT_ES: Final = {"flags": 1}
"""INIT as Linux' driver sends it: for guests with and without SEV-ES."""

_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

_T = TypeVar("_T")


async def start(state_dir: str, *, progress: Callable[[str], None] | None = None) -> ModelPlatform:
    """See :func:`sealpod.platform.model.open_model`."""
    channel = Channel(ModelProcess(state_dir))
    try:
        await channel.ready(progress)
        await channel.call(Command.INIT, INIT_ES)
    except BaseException:
        channel.process.close()
        raise
    return ModelPlatform(channel)


class ModelPlatform:
    """A running software platform. Made by :func:`start`."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._asids: set[int] = set()
        self._initialised = True

    @property
    def kind(self) -> PlatformKind:
        """``model``."""
        return "model"

    @property
    def pid(self) -> int:
        """The firmware's process, for messages."""
        return self._channel.process.pid

    async def status(self) -> PlatformStatus:
        """The firmware's version and state."""
        values = (await self._channel.call(Command.PLATFORM_STATUS)).values
        version = FirmwareVersion(values["api_major"], values["api_minor"], values["build"])
        owned, es = bool(values["owned"]), bool(values["es"])
        return PlatformStatus(version, values["state"], owned, es, values["guest_count"])

    async def certificate_chain(self) -> bytes:
        """PDH, PEK, OCA, CEK (signed by the model's ASK), ASK, ARK: 11536 bytes."""
        platform, vendor = await self.pdh_cert_export(), await self.vendor_certificates()
        # The exported CEK is unsigned; the vendor's copy of it takes its place.
        return platform.pdh + platform.pek + platform.oca + vendor.cek + vendor.ask + vendor.ark

    async def identifier(self) -> bytes:
        """The model chip's identifier, 64 bytes."""
        return (await self._channel.call(Command.GET_ID, {"length": IDENTIFIER_SIZE})).parts["id"]

    async def pdh_cert_export(self) -> PlatformCertificates:
        """The platform's own certificates."""
        await self._initialise()
        lengths = {"pdh_length": cert.SIZE, "chain_length": CHAIN_SIZE}
        exported = (await self._channel.call(Command.PDH_CERT_EXPORT, lengths)).parts
        chain = exported["chain"]
        links = (chain[start : start + cert.SIZE] for start in range(0, CHAIN_SIZE, cert.SIZE))
        return PlatformCertificates(exported["pdh"], *links)

    async def vendor_certificates(self) -> VendorCertificates:
        """The model's own vendor: CEK, ASK and ARK made with the chip."""
        parts = (await self._channel.call(Command.VENDOR_CERTIFICATES)).parts
        return VendorCertificates(parts["cek"], parts["ask"], parts["ark"])

    async def pek_csr(self) -> bytes:
        """The PEK's certificate without signatures."""
        await self._initialise()
        return (await self._channel.call(Command.PEK_CSR, {"length": cert.SIZE})).parts["pek"]

    async def pek_cert_import(self, pek: bytes, oca: bytes) -> None:
        """Make ``oca`` the platform's owner."""
        await self._initialise()
        await self._channel.call(Command.PEK_CERT_IMPORT, parts={"pek": pek, "oca": oca})

    async def pek_gen(self) -> None:
        """A new OCA of the platform's own, PEK and PDH."""
        await self._initialise()
        await self._channel.call(Command.PEK_GEN)

    async def pdh_gen(self) -> None:
        """A new PDH."""
        await self._initialise()
        await self._channel.call(Command.PDH_GEN)

    async def reset(self) -> None:
        """SHUTDOWN, PLATFORM_RESET; as Linux' driver does, not while there are guests."""
        if (await self.status()).state == PlatformState.WORKING:
            raise ConflictError(
                "the platform has guests", code="platform.busy", remedy="end the guests on it first"
            )
        self._initialised = False
        await self._channel.call(Command.SHUTDOWN)
        await self._channel.call(Command.PLATFORM_RESET)

    async def _initialise(self) -> None:
        """INIT after a reset: whatever needs an initialised platform makes it one, as Linux' driver does."""
        if not self._initialised:
            await self._channel.call(Command.INIT, INIT_ES)
            self._initialised = True

    async def launch(self, spec: LaunchSpec) -> ModelLaunch:
        """LAUNCH_START and ACTIVATE."""
        _check(spec)
        await self._initialise()
        return await _to_its_end(self._launch(spec), undo=ModelLaunch.close)

    async def _launch(self, spec: LaunchSpec) -> ModelLaunch:
        owner = {"godh": spec.godh, "session": spec.session}
        parts = {name: data for name, data in owner.items() if data is not None}
        values = {"policy": spec.policy.value, "handle": 0}
        started = await self._channel.call(Command.LAUNCH_START, values, parts)
        launch = ModelLaunch(self, self._channel, spec, started.values["handle"])
        try:
            await launch.activate()
        except BaseException:
            await launch.close()
            raise
        return launch

    def take_asid(self) -> int:
        """The lowest free address space id (the kernel's part on a real platform)."""
        free = next((asid for asid in range(1, MAX_ASID + 1) if asid not in self._asids), None)
        if free is None:
            raise Status.RESOURCE_LIMIT.error(f"all {MAX_ASID} address space ids are in use")
        self._asids.add(free)
        return free

    def release_asid(self, asid: int) -> None:
        """Give back what :meth:`take_asid` gave."""
        self._asids.discard(asid)

    async def close(self) -> None:
        """End the firmware's process, and with it every guest it knows. Idempotent."""
        await self._channel.close()


class ModelLaunch:
    """One guest of a :class:`ModelPlatform`."""

    def __init__(self, platform: ModelPlatform, channel: Channel, spec: LaunchSpec, handle: int) -> None:
        self._platform = platform
        self._channel = channel
        self._spec = spec
        self._handle = handle
        self._asid = 0
        self._closed = False

    async def activate(self) -> None:
        """ACTIVATE, part of the platform's launch."""
        self._asid = self._platform.take_asid()
        await self._channel.call(Command.ACTIVATE, {"handle": self._handle, "asid": self._asid})

    @property
    def needs(self) -> QemuNeeds:
        """Nothing: QEMU knows of no confidential guest."""
        return QemuNeeds()

    def explain(self, failure: SealpodError) -> SealpodError:
        """``failure`` itself: QEMU has nothing to do with the firmware."""
        return failure

    async def measure(self, guest: PausedGuest) -> Measured:
        """Flash, then hashes table, then LAUNCH_MEASURE."""
        await self._measure_flash(guest)
        if self._spec.hashes is not None and self._spec.hashes_gpa is not None:
            await self._measure_hashes(guest, self._spec.hashes, self._spec.hashes_gpa)
        values = {"handle": self._handle, "length": MEASUREMENT_SIZE}
        response = await self._channel.call(Command.LAUNCH_MEASURE, values)
        status = await self._platform.status()
        return Measured(Measurement.decode(response.parts["measurement"]), status.version)

    async def _measure_flash(self, guest: PausedGuest) -> None:
        size = self._spec.firmware_size
        flash = await guest.read_physical(TOP_OF_FLASH - size, size)
        if len(flash) != size:
            raise OperationError(
                f"the guest's flash gave {len(flash)} of {size} bytes", code="platform.flash-size"
            )
        with _sealed(flash) as fd:
            await self._update(TOP_OF_FLASH - size, size, GuestMemory(FLASH, fd))

    async def _measure_hashes(self, guest: PausedGuest, table: bytes, gpa: int) -> None:
        if gpa + len(table) > os.fstat(guest.ram_fd).st_size:
            raise OperationError(f"the hashes area at {gpa:#x} is not in RAM", code="platform.hashes-area")
        _write(guest.ram_fd, table, gpa)
        await self._update(gpa, len(table), GuestMemory(RAM, guest.ram_fd))

    async def _update(self, paddr: int, length: int, memory: GuestMemory) -> None:
        values = {"handle": self._handle, "paddr": paddr, "length": length}
        await self._channel.call(Command.LAUNCH_UPDATE_DATA, values, memory=memory)

    async def inject(self, guest: PausedGuest, packet: Packet) -> None:
        """LAUNCH_SECRET into the guest's RAM."""
        gpa = self._spec.secret_gpa
        if gpa is None:
            raise UsageError(
                "the firmware has no launch secret area",
                code="platform.no-secret-area",
                remedy="use an OVMF built for SEV (AmdSev)",
            )
        values = {"handle": self._handle, "paddr": gpa, "guest_length": len(packet.data)}
        parts = {"header": packet.header, "data": packet.data}
        memory = GuestMemory(RAM, guest.ram_fd)
        await self._channel.call(Command.LAUNCH_SECRET, values, parts, memory=memory)

    async def finish(self, guest: PausedGuest) -> None:
        """LAUNCH_FINISH."""
        await self._channel.call(Command.LAUNCH_FINISH, {"handle": self._handle})

    async def close(self) -> None:
        """DEACTIVATE, DF_FLUSH, DECOMMISSION. Idempotent; a process that is gone has forgotten the guest."""
        if self._closed:
            return
        self._closed = True
        with suppress(UnavailableError):
            await _to_its_end(self._close())

    async def _close(self) -> None:
        handle = {"handle": self._handle}
        # A guest whose ACTIVATE failed is not active, and is decommissioned all the same.
        with suppress(FirmwareError):
            await self._channel.call(Command.DEACTIVATE, handle)
        await self._channel.call(Command.DF_FLUSH)
        await self._channel.call(Command.DECOMMISSION, handle)
        self._platform.release_asid(self._asid)


async def _to_its_end(
    work: Coroutine[object, object, _T],
    *,
    undo: Callable[[_T], Coroutine[object, object, None]] | None = None,
) -> _T:
    """Run ``work`` to its end even when this task is cancelled meanwhile; then ``undo`` its result.

    Commands take milliseconds, and half of a launch would leave a guest behind that nobody knows.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if task.exception() is None and undo is not None:
        await undo(task.result())
    raise cancelled


def _check(spec: LaunchSpec) -> None:
    if (spec.godh is None) != (spec.session is None):
        raise UsageError("the owner's key and session come together", code="platform.half-session")
    if (spec.hashes is None) != (spec.hashes_gpa is None):
        raise UsageError(
            "hashes to be measured need a place in the guest",
            code="platform.no-hashes-area",
            remedy="use an OVMF built for SEV (AmdSev), which has a hashes area",
        )
    if not 0 < spec.firmware_size <= TOP_OF_FLASH:
        raise UsageError(f"a flash of {spec.firmware_size} bytes", code="platform.flash-size")


@contextmanager
def _sealed(data: bytes) -> Iterator[int]:
    """A memfd of ``data`` that nobody can change any more."""
    fd = os.memfd_create("sealpod-flash", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        _write(fd, data, 0)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        yield fd
    finally:
        os.close(fd)


def _write(fd: int, data: bytes, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)
