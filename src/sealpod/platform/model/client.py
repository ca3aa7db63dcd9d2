# SPDX-License-Identifier: Apache-2.0
"""The platform port over the software firmware. One launch on it is in :mod:`.launch`."""

from __future__ import annotations

import os
from collections.abc import Callable

from sealpod.errors import ConflictError
from sealpod.platform.checks import check_spec
from sealpod.platform.model.asids import AsidTable
from sealpod.platform.model.channel import Channel
from sealpod.platform.model.commands import Command
from sealpod.platform.model.firmware import CHAIN_SIZE, IDENTIFIER_SIZE, PlatformState
from sealpod.platform.model.launch import ModelLaunch, to_its_end
from sealpod.platform.model.process import ModelProcess
from sealpod.platform.port import (
    LaunchSpec,
    PlatformCertificates,
    PlatformKind,
    PlatformStatus,
    VendorCertificates,
)
from sealpod.sev import cert
from sealpod.sev.status import Status
from sealpod.sev.version import FirmwareVersion

INIT_ES = {"flags": 1}
"""INIT as Linux' driver sends it: for guests with and without SEV-ES."""


async def start(state_dir: str, *, progress: Callable[[str], None] | None = None) -> ModelPlatform:
    """See :func:`sealpod.platform.model.open_model`."""
    channel = Channel(ModelProcess(state_dir))
    try:
        await channel.ready(progress)
        await channel.call(Command.INIT, INIT_ES)
        # The process has made the directory and found it private.
        asids = AsidTable(os.path.abspath(state_dir))
    except BaseException:
        channel.process.close()
        raise
    return ModelPlatform(channel, asids)


class ModelPlatform:
    """A running software platform. Made by :func:`start`."""

    def __init__(self, channel: Channel, asids: AsidTable) -> None:
        self._channel = channel
        self._asids = asids
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
        # One machine has one firmware: the guests of other processes count, whoever asks.
        others = self._asids.others()
        state = int(PlatformState.WORKING) if others else values["state"]
        return PlatformStatus(version, state, owned, es, values["guest_count"] + others)

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
        self._require_no_other_guests()
        await self._channel.call(Command.PEK_CERT_IMPORT, parts={"pek": pek, "oca": oca})

    async def pek_gen(self) -> None:
        """A new OCA of the platform's own, PEK and PDH."""
        await self._initialise()
        self._require_no_other_guests()
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

    def _require_no_other_guests(self) -> None:
        if others := self._asids.others():
            raise Status.INVALID_PLATFORM_STATE.error(f"{others} guests of other processes are on it")

    async def _initialise(self) -> None:
        """INIT after a reset: whatever needs an initialised platform makes it one, as Linux' driver does."""
        if not self._initialised:
            await self._channel.call(Command.INIT, INIT_ES)
            self._initialised = True

    async def launch(self, spec: LaunchSpec) -> ModelLaunch:
        """LAUNCH_START and ACTIVATE."""
        check_spec(spec)
        await self._initialise()
        return await to_its_end(self._launch(spec), undo=ModelLaunch.close)

    async def _launch(self, spec: LaunchSpec) -> ModelLaunch:
        owner = {"godh": spec.godh, "session": spec.session}
        parts = {name: data for name, data in owner.items() if data is not None}
        values = {"policy": spec.policy.value, "handle": 0}
        started = await self._channel.call(Command.LAUNCH_START, values, parts)
        launch = ModelLaunch(self._channel, self._asids, spec, started.values["handle"])
        try:
            await launch.activate()
        except BaseException:
            await launch.close()
            raise
        return launch

    async def close(self) -> None:
        """End the firmware's process, and with it every guest it knows. Idempotent."""
        self._asids.close()
        await self._channel.close()
