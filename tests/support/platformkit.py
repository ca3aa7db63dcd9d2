# SPDX-License-Identifier: Apache-2.0
"""The platform port's drivers for its contract: how each is opened, and how a guest of it is started.

``model`` is a process; its guest is a memfd of RAM and some bytes of flash. ``device`` is the driver for
``/dev/sev`` on a scripted kernel and a scripted QEMU (sevdevice, sevqemu) before the model's firmware.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ovmfkit import FULL, build_image
from sevdevice import ScriptedDevice, ScriptedFirmware
from sevqemu import CBITPOS, REDUCED, ScriptedQemu

from sealpod.errors import SealpodError
from sealpod.measure.hashes import HashesTable
from sealpod.measure.ovmf import Ovmf
from sealpod.measure.vmsa import vmsa_pages
from sealpod.platform.device.cpuid import Encryption
from sealpod.platform.device.node import DeviceNode
from sealpod.platform.device.platform import DevicePlatform
from sealpod.platform.model import open_model
from sealpod.platform.model.store import StateDirectory, rsa_key
from sealpod.platform.port import Launch, PausedGuest, Platform, QemuNeeds

FLASH = build_image(FULL)
HASHES_GPA = 0x10C00
RAM = 1 << 20
SIGNATURE = 0x60FB1
QEMU = (7, 2)


@dataclass(frozen=True)
class Content:
    """What is in a guest: what QEMU was really started with, whatever the specification says."""

    flash: bytes = FLASH
    kernel: bytes = b"kernel"
    vcpus: int = 1

    @property
    def hashes(self) -> bytes:
        return HashesTable.of(self.kernel, b"initrd", "command line").encode()

    @property
    def vmsas(self) -> list[bytes]:
        return list(vmsa_pages(self.vcpus, Ovmf.parse(FLASH).reset_eip, signature=SIGNATURE))


class Guest(PausedGuest, Protocol):
    """A paused guest whose memory a test can look at."""

    def ram(self, gpa: int, size: int) -> bytes: ...


class FakeGuest:
    """A model's paused guest: RAM in a memfd, flash that ends at 4 GiB, vCPUs as QEMU shows them."""

    def __init__(self, content: Content, *, ram: int = RAM) -> None:
        self.ram_fd = os.memfd_create("ram", os.MFD_CLOEXEC)
        os.truncate(self.ram_fd, ram)
        self.content = content

    def close(self) -> None:
        os.close(self.ram_fd)

    async def qmp(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        assert (command, arguments) == ("human-monitor-command", {"command-line": "info registers -a"})
        shown = f"EAX=00000000 EBX=00000000 ECX=00000000 EDX={SIGNATURE:08x}\r\nESI=00000000\r\n"
        return "".join(f"\r\nCPU#{number}\r\n{shown}" for number in range(self.content.vcpus))

    async def read_physical(self, gpa: int, size: int) -> bytes:
        start = gpa - ((4 << 30) - len(self.content.flash))
        assert start >= 0
        return self.content.flash[start : start + size]

    def ram(self, gpa: int, size: int) -> bytes:
        return os.pread(self.ram_fd, size, gpa)


class Driver(Protocol):
    """One implementation of the port."""

    name: str

    async def open(self, state_dir: str) -> Platform: ...

    def guest(self, platform: Platform, launch: Launch, content: Content) -> _Started:
        """A guest started with what the launch needs, until the block ends; SealpodError if it cannot be."""


class _Started(Protocol):
    async def __aenter__(self) -> Guest: ...

    async def __aexit__(self, *_: object) -> bool | None: ...


class ModelDriver:
    name = "model"

    async def open(self, state_dir: str) -> Platform:
        return await open_model(state_dir)

    @asynccontextmanager
    async def guest(self, _platform: Platform, launch: Launch, content: Content) -> AsyncIterator[Guest]:
        assert launch.needs(QEMU).arguments == ()
        guest = FakeGuest(content)
        try:
            yield guest
        finally:
            guest.close()


@dataclass
class DeviceDriver:
    """``version`` is the scripted QEMU's; ``late`` how long it has no measurement yet."""

    version: tuple[int, int] = QEMU
    late: int = 0
    name: str = "device"

    async def open(self, state_dir: str) -> Platform:
        store = StateDirectory(state_dir)
        chip = store.chip(os.urandom, rsa_key, lambda: None)
        self.machine = ScriptedFirmware(chip, store)
        self.device = ScriptedDevice(self.machine)
        node = DeviceNode("/dev/sev", os.open("/dev/null", os.O_RDWR), ioctl=self.device)
        chain = Path(state_dir) / "chain.cert"
        host = Encryption(True, True, CBITPOS, REDUCED, 509, 100)
        platform = DevicePlatform(node, chain_file=str(chain), host=host)
        # What `sealpod sev export --full` does, AMD's key server being the chip's record.
        ours = await platform.pdh_cert_export()
        chain.write_bytes(ours.pdh + ours.pek + ours.oca + chip.cek + chip.ask + chip.ark)
        return platform

    def start(
        self, needs: QemuNeeds, content: Content, *, ram: int = RAM, table_gpa: int = HASHES_GPA
    ) -> ScriptedQemu:
        """QEMU with this guest; LaunchError as QEMU's own failure."""
        return ScriptedQemu(
            self.machine,
            needs,
            content.flash,
            content.hashes,
            ram=ram,
            table_gpa=table_gpa,
            pages=content.vmsas,
            version=self.version,
            late=self.late,
        )

    @asynccontextmanager
    async def guest(self, _platform: Platform, launch: Launch, content: Content) -> AsyncIterator[Guest]:
        try:
            guest = self.start(launch.needs(self.version), content)
        except SealpodError as error:
            raise launch.explain(error) from error
        try:
            yield guest
        finally:
            guest.end()


DRIVERS: dict[str, Driver] = {
    "device": DeviceDriver(),
    "device-qemu-9.1": DeviceDriver(version=(9, 1), late=2),
    "model": ModelDriver(),
}
