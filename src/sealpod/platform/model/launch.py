# SPDX-License-Identifier: Apache-2.0
"""One launch on the software firmware.

Who reads what: QEMU itself writes out the flash as its guest sees it (QMP ``pmemsave``, behind
``read_physical``); the bytes go to the firmware's process in a sealed memfd, so that nobody changes them
between reading and measuring. The hashes table is written into the guest's RAM first and then read from there
by the firmware, as is the place of the secret; vCPUs are read from QEMU (:mod:`.vcpus`): what is measured is
what is in the guest.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeVar

from sealpod.errors import FirmwareError, OperationError, SealpodError, UnavailableError
from sealpod.measure.ovmf import Ovmf
from sealpod.platform.checks import TOP_OF_FLASH, secret_place
from sealpod.platform.model.channel import Channel, GuestMemory
from sealpod.platform.model.commands import Command
from sealpod.platform.model.server import FLASH, PAGE, RAM
from sealpod.platform.model.vcpus import vmsa_pages
from sealpod.platform.port import LaunchSpec, Measured, PausedGuest, QemuNeeds
from sealpod.sev import report
from sealpod.sev.measurement import MEASUREMENT_SIZE, Measurement
from sealpod.sev.policy import PolicyFlag
from sealpod.sev.version import FirmwareVersion

if TYPE_CHECKING:
    from sealpod.platform.model.asids import AsidTable
    from sealpod.sev.packet import Packet

_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

_T = TypeVar("_T")


class ModelLaunch:
    """One guest of a :class:`ModelPlatform`."""

    def __init__(self, channel: Channel, asids: AsidTable, spec: LaunchSpec, handle: int) -> None:
        self._channel = channel
        self._asids = asids
        self._spec = spec
        self._handle = handle
        self._asid = 0
        self._closed = False

    @property
    def _es(self) -> bool:
        return PolicyFlag.ES in self._spec.policy.flags

    async def activate(self) -> None:
        """ACTIVATE, part of the platform's launch."""
        self._asid = self._asids.take(es=self._es)
        await self._channel.call(Command.ACTIVATE, {"handle": self._handle, "asid": self._asid})

    def needs(self, _qemu: tuple[int, int]) -> QemuNeeds:
        """Nothing: QEMU knows of no confidential guest."""
        return QemuNeeds()

    def explain(self, failure: SealpodError) -> SealpodError:
        """``failure`` itself: QEMU has nothing to do with the firmware."""
        return failure

    async def measure(self, guest: PausedGuest) -> Measured:
        """Flash, hashes table, with SEV-ES the vCPUs, then LAUNCH_MEASURE."""
        flash = await self._measure_flash(guest)
        if self._spec.hashes is not None and self._spec.hashes_gpa is not None:
            await self._measure_hashes(guest, self._spec.hashes, self._spec.hashes_gpa)
        if self._es:
            await self._measure_vcpus(guest, flash)
        values = {"handle": self._handle, "length": MEASUREMENT_SIZE}
        response = await self._channel.call(Command.LAUNCH_MEASURE, values)
        status = (await self._channel.call(Command.PLATFORM_STATUS)).values
        version = FirmwareVersion(status["api_major"], status["api_minor"], status["build"])
        return Measured(Measurement.decode(response.parts["measurement"]), version)

    async def _measure_flash(self, guest: PausedGuest) -> bytes:
        size = self._spec.firmware_size
        flash = await guest.read_physical(TOP_OF_FLASH - size, size)
        if len(flash) != size:
            raise OperationError(
                f"the guest's flash gave {len(flash)} of {size} bytes", code="platform.flash-size"
            )
        with _sealed(flash) as fd:
            await self._update(TOP_OF_FLASH - size, size, GuestMemory(FLASH, fd))
        return flash

    async def _measure_hashes(self, guest: PausedGuest, table: bytes, gpa: int) -> None:
        if gpa + len(table) > os.fstat(guest.ram_fd).st_size:
            raise OperationError(f"the hashes area at {gpa:#x} is not in RAM", code="platform.hashes-area")
        _write(guest.ram_fd, table, gpa)
        await self._update(gpa, len(table), GuestMemory(RAM, guest.ram_fd))

    async def _measure_vcpus(self, guest: PausedGuest, flash: bytes) -> None:
        for page in await vmsa_pages(guest, Ovmf.parse(flash).reset_address):
            with _sealed(page) as fd:
                values = {"handle": self._handle, "paddr": 0, "length": len(page)}
                memory = GuestMemory(PAGE, fd)
                await self._channel.call(Command.LAUNCH_UPDATE_VMSA, values, memory=memory)

    async def _update(self, paddr: int, length: int, memory: GuestMemory) -> None:
        values = {"handle": self._handle, "paddr": paddr, "length": length}
        await self._channel.call(Command.LAUNCH_UPDATE_DATA, values, memory=memory)

    async def inject(self, guest: PausedGuest, packet: Packet) -> None:
        """LAUNCH_SECRET into the guest's RAM."""
        gpa = secret_place(self._spec, packet)
        values = {"handle": self._handle, "paddr": gpa, "guest_length": len(packet.data)}
        parts = {"header": packet.header, "data": packet.data}
        memory = GuestMemory(RAM, guest.ram_fd)
        await self._channel.call(Command.LAUNCH_SECRET, values, parts, memory=memory)

    async def attestation_report(self, guest: PausedGuest, mnonce: bytes) -> bytes:
        """ATTESTATION."""
        values = {"handle": self._handle, "length": report.SIZE}
        response = await self._channel.call(Command.ATTESTATION, values, {"mnonce": mnonce})
        return response.parts["report"]

    async def finish(self, guest: PausedGuest) -> None:
        """LAUNCH_FINISH."""
        await self._channel.call(Command.LAUNCH_FINISH, {"handle": self._handle})

    async def close(self) -> None:
        """DEACTIVATE, DF_FLUSH, DECOMMISSION. Idempotent; a process that is gone has forgotten the guest."""
        if self._closed:
            return
        self._closed = True
        with suppress(UnavailableError):
            await to_its_end(self._close())

    async def _close(self) -> None:
        handle = {"handle": self._handle}
        # A guest whose ACTIVATE failed is not active, and is decommissioned all the same.
        with suppress(FirmwareError):
            await self._channel.call(Command.DEACTIVATE, handle)
        await self._channel.call(Command.DF_FLUSH)
        await self._channel.call(Command.DECOMMISSION, handle)
        self._asids.release(self._asid)


async def to_its_end(
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
