# SPDX-License-Identifier: Apache-2.0
"""One launch through QEMU's ``sev-guest`` object.

QEMU sends the commands at moments of its own: LAUNCH_START when it starts, LAUNCH_UPDATE_DATA when it loads
flash and hashes, LAUNCH_UPDATE_VMSA and LAUNCH_MEASURE when the machine is complete, LAUNCH_FINISH at
``cont``. What is left is to read the measurement, hand over the secret, and keep the order of the port.
"""

from __future__ import annotations

import asyncio
import base64
import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from sealpod.errors import SealpodError, UnavailableError
from sealpod.platform.checks import secret_place
from sealpod.platform.device import replies
from sealpod.platform.device.failures import qemu_error
from sealpod.platform.device.properties import sev_guest
from sealpod.platform.port import LaunchSpec, Measured, PausedGuest, QemuNeeds
from sealpod.sev.status import Status

if TYPE_CHECKING:
    from sealpod.platform.device.launchfiles import LaunchFiles
    from sealpod.platform.device.platform import DevicePlatform
    from sealpod.sev.packet import Packet

MEASURE_SECONDS: Final = 30.0
"""Longest wait for the measurement: the firmware encrypts flash and hashes in milliseconds."""
_POLL_SECONDS: Final = 0.05


class _Phase(enum.Enum):
    PREPARED = enum.auto()
    MEASURED = enum.auto()
    FINISHED = enum.auto()
    CLOSED = enum.auto()


class DeviceLaunch:
    """One guest of a :class:`~sealpod.platform.device.platform.DevicePlatform`."""

    def __init__(self, platform: DevicePlatform, spec: LaunchSpec, files: LaunchFiles | None) -> None:
        self._platform = platform
        self._spec = spec
        self._files = files
        self._phase = _Phase.PREPARED

    def needs(self, qemu: tuple[int, int]) -> QemuNeeds:
        """The ``sev-guest`` object and what goes with it."""
        files = None if self._files is None else (self._files.godh, self._files.session)
        return sev_guest(
            self._spec.policy,
            self._platform.encryption,
            qemu,
            files=files,
            kernel_hashes=self._spec.hashes is not None,
            device=self._platform.path,
        )

    def explain(self, failure: SealpodError) -> SealpodError:
        """The firmware's error out of QEMU's last words."""
        return qemu_error(failure)

    async def measure(self, guest: PausedGuest) -> Measured:
        """Wait until QEMU has the measurement, and read it."""
        self._require(_Phase.PREPARED)
        try:
            async with asyncio.timeout(MEASURE_SECONDS):
                info = await self._measured(guest)
        except TimeoutError:
            raise UnavailableError(
                f"no launch measurement within {MEASURE_SECONDS:g} s", code="platform.silent"
            ) from None
        found = replies.measurement(await self._ask(guest, replies.MEASURE))
        self._phase = _Phase.MEASURED
        return Measured(found, info.version)

    async def _measured(self, guest: PausedGuest) -> replies.SevInfo:
        """``query-sev`` once it says that the guest may get secrets. QEMU has no event for it."""
        while True:
            info = replies.sev_info(await self._ask(guest, replies.QUERY))
            if info.state == replies.SECRET:
                return info
            if info.state != replies.UPDATE:
                raise Status.INVALID_GUEST_STATE.error(f"QEMU says the guest is in state {info.state}")
            await asyncio.sleep(_POLL_SECONDS)

    async def inject(self, guest: PausedGuest, packet: Packet) -> None:
        """LAUNCH_SECRET."""
        gpa = secret_place(self._spec, packet)
        self._require(_Phase.MEASURED)
        arguments = {
            "packet-header": base64.b64encode(packet.header).decode(),
            "secret": base64.b64encode(packet.data).decode(),
            "gpa": gpa,
        }
        await self._ask(guest, replies.INJECT, arguments)

    async def attestation_report(self, guest: PausedGuest, mnonce: bytes) -> bytes:
        """The firmware's signed report about the guest, 208 bytes."""
        self._require(_Phase.MEASURED, _Phase.FINISHED)
        arguments = {"mnonce": base64.b64encode(mnonce).decode()}
        return replies.report(await self._ask(guest, replies.REPORT, arguments))

    async def finish(self, guest: PausedGuest) -> None:
        """See that the guest is still where it was measured; QEMU sends LAUNCH_FINISH at ``cont``."""
        self._require(_Phase.MEASURED)
        info = replies.sev_info(await self._ask(guest, replies.QUERY))
        if info.state != replies.SECRET:
            raise Status.INVALID_GUEST_STATE.error(f"QEMU says the guest is in state {info.state}")
        self._phase = _Phase.FINISHED

    async def close(self) -> None:
        """Remove the owner's files; the kernel has decommissioned the guest with its QEMU. Idempotent."""
        self._phase = _Phase.CLOSED
        if self._files is not None:
            self._files.close()

    def _require(self, *allowed: _Phase) -> None:
        self._platform.require_open()
        if self._phase is _Phase.CLOSED:
            raise Status.INVALID_GUEST.error("the launch is closed")
        if self._phase not in allowed:
            raise Status.INVALID_GUEST_STATE.error(f"the launch is {self._phase.name.lower()}")

    async def _ask(
        self, guest: PausedGuest, command: str, arguments: Mapping[str, object] | None = None
    ) -> object:
        try:
            return await guest.qmp(command, arguments)
        except SealpodError as error:
            raise qemu_error(error) from error
