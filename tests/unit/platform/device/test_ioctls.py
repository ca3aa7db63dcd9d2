# SPDX-License-Identifier: Apache-2.0
"""The kernel's structures byte for byte, and what its failures become."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from platformkit import DeviceDriver
from sevdevice import ENOTSUPP, ScriptedDevice, ScriptedFirmware

from sealpod.errors import (
    AccessError,
    ConflictError,
    FirmwareError,
    LaunchError,
    NotFoundError,
    OperationError,
    SealpodError,
    UnavailableError,
)
from sealpod.platform.device.failures import device_error, qemu_error
from sealpod.platform.device.ioctls import (
    BUFFER,
    BUFFERS,
    ISSUE_CMD,
    SEV_ISSUE_CMD,
    STATUS,
    DeviceCommand,
    firmware_status,
    issue,
    platform_status,
)
from sealpod.platform.device.node import DeviceNode
from sealpod.platform.device.platform import DevicePlatform
from sealpod.platform.model.chip import Chip
from sealpod.platform.model.commands import Command
from sealpod.platform.open import open_platform
from sealpod.sev.status import Status


def test_numbers_and_sizes_are_the_kernels() -> None:
    assert SEV_ISSUE_CMD == 0xC0105300
    assert (ISSUE_CMD.size, STATUS.size, BUFFER.size, BUFFERS.size) == (16, 12, 12, 24)
    assert [command.value for command in DeviceCommand] == [0, 1, 2, 3, 4, 5, 6, 8]


def test_a_command_is_packed_without_gaps() -> None:
    argument = issue(DeviceCommand.GET_ID2, 0x1122334455667788)
    assert argument == bytes.fromhex("08000000 8877665544332211 00000000")
    argument[12:] = bytes.fromhex("0b000000")
    assert firmware_status(argument) == Status.BAD_MEASUREMENT


def test_the_status_flags_are_owner_in_bit_0_and_es_in_bit_8() -> None:
    data = bytes.fromhex("00 18 02 01010000 0f 05000000")
    status = platform_status(data)
    version = status.version
    assert (version.api_major, version.api_minor, version.build) == (0, 24, 15)
    assert (status.state, status.guest_count) == (2, 5)
    assert (status.owned, status.es) == (True, True)
    assert (platform_status(data[:3] + bytes(4) + data[7:]).owned) is False


def test_buffers_are_where_their_addresses_say() -> None:
    """A kernel that looks through the pointers, as the real one does."""
    seen: list[tuple[int, bytes, bytes]] = []

    def kernel(_fd: int, request: int, argument: bytearray) -> int:
        assert request == SEV_ISSUE_CMD
        command, data, _ = struct.unpack("<IQI", argument)
        pek, pek_length, oca, oca_length = struct.unpack("<QIQI", ctypes.string_at(data, 24))
        seen.append((command, ctypes.string_at(pek, pek_length), ctypes.string_at(oca, oca_length)))
        return 0

    async def main() -> None:
        node = DeviceNode("/dev/sev", os.open("/dev/null", os.O_RDWR), ioctl=kernel)
        await node.send_two(DeviceCommand.PEK_CERT_IMPORT, b"p" * 2084, b"o" * 2084)
        node.close()

    asyncio.run(main())
    assert seen == [(6, b"p" * 2084, b"o" * 2084)]


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (errno.EPERM, AccessError, "platform.access"),
        (errno.EACCES, AccessError, "platform.access"),
        (errno.EBUSY, ConflictError, "platform.busy"),
        (errno.ENODEV, NotFoundError, "platform.absent"),
        (errno.ENOENT, NotFoundError, "platform.absent"),
        (ENOTSUPP, OperationError, "platform.unsupported"),
        (errno.ETIMEDOUT, UnavailableError, "platform.silent"),
        (errno.EINVAL, OperationError, "platform.device"),
        (errno.EIO, OperationError, "platform.device"),
    ],
)
def test_an_errno_has_a_family_and_a_remedy(number: int, kind: type[SealpodError], code: str) -> None:
    error = device_error("PEK_GEN", "/dev/sev", number, 0)
    assert type(error) is kind
    assert error.code == code
    assert error.remedy
    assert "PEK_GEN on /dev/sev" in error.message


@pytest.mark.parametrize("status", [status for status in Status if status])
def test_eio_carries_the_firmwares_status(status: Status) -> None:
    error = device_error("PEK_GEN", "/dev/sev", errno.EIO, int(status))
    assert isinstance(error, FirmwareError)
    assert error.status == status
    assert error.code == status.error_code


@pytest.fixture
def machine(chip: Chip, store: object) -> ScriptedFirmware:
    return ScriptedFirmware(chip, store)  # type: ignore[arg-type]


def on(device: ScriptedDevice, work: Callable[[DevicePlatform], Awaitable[object]]) -> object:
    """What ``work`` gives on the scripted device."""

    async def main() -> object:
        node = DeviceNode("/dev/sev", os.open("/dev/null", os.O_RDWR), ioctl=device)
        platform = DevicePlatform(node)
        try:
            return await work(platform)
        finally:
            await platform.close()

    return asyncio.run(main())


CHANGES: list[Callable[[DevicePlatform], Awaitable[object]]] = [
    lambda platform: platform.reset(),
    lambda platform: platform.pek_gen(),
    lambda platform: platform.pdh_gen(),
    lambda platform: platform.pek_csr(),
    lambda platform: platform.pek_cert_import(bytes(2084), bytes(2084)),
    lambda platform: platform.pdh_cert_export(),
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_or_initialises_needs_write_access(
    machine: ScriptedFirmware, change: Callable[[DevicePlatform], Awaitable[object]]
) -> None:
    with pytest.raises(AccessError):
        on(ScriptedDevice(machine, writable=False), change)
    assert machine.log == []


def test_who_may_only_read_sees_status_identifier_and_an_initialised_platforms_chain(
    machine: ScriptedFirmware,
) -> None:
    machine.initialise()
    device = ScriptedDevice(machine, writable=False)

    async def look(platform: DevicePlatform) -> None:
        assert (await platform.status()).state == 1
        assert len(await platform.identifier()) == 64
        assert len((await platform.pdh_cert_export()).pdh) == 2084

    on(device, look)


def test_a_platform_nobody_has_initialised_is(machine: ScriptedFirmware) -> None:
    async def look(platform: DevicePlatform) -> None:
        before = await platform.status()
        assert (before.state, before.es) == (0, False)
        await platform.pdh_cert_export()
        after = await platform.status()
        assert (after.state, after.es) == (1, True)

    on(ScriptedDevice(machine), look)


def test_the_driver_tries_once_more_after_a_corrupt_store(machine: ScriptedFirmware) -> None:
    machine.initialise()
    machine.send(Command.SHUTDOWN)
    store = machine.firmware._store
    store.save((store.load() or b"")[:-1] + b"x")
    machine.log.clear()
    on(ScriptedDevice(machine), lambda platform: platform.pdh_gen())
    assert machine.log == ["INIT", "INIT", "PDH_GEN"]


def test_a_firmware_error_comes_through_the_ioctl(machine: ScriptedFirmware) -> None:
    zeros = bytes(2084)
    with pytest.raises(FirmwareError) as caught:
        on(ScriptedDevice(machine), lambda platform: platform.pek_cert_import(zeros, zeros))
    assert caught.value.status == Status.BAD_SIGNATURE


def test_after_a_firmware_timeout_everything_is_busy(machine: ScriptedFirmware) -> None:
    device = ScriptedDevice(machine)
    device.fail = [errno.ETIMEDOUT, errno.EBUSY]
    with pytest.raises(UnavailableError):
        on(device, lambda platform: platform.pdh_gen())
    with pytest.raises(ConflictError, match="stopped answering"):
        on(device, lambda platform: platform.status())


def test_a_cancelled_command_is_waited_for() -> None:
    """The kernel goes on writing into the buffers: they must not be freed under it."""
    finished: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        begun = asyncio.Event()

        def slow(_fd: int, _request: int, _argument: bytearray) -> int:
            loop.call_soon_threadsafe(begun.set)
            while not asking.cancelling():
                pass
            finished.append(1)
            return 0

        node = DeviceNode("/dev/sev", os.open("/dev/null", os.O_RDWR), ioctl=slow)
        asking = asyncio.create_task(node.fill(DeviceCommand.GET_ID2, 64))
        await begun.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert finished
        node.close()
        node.close()
        with pytest.raises(UnavailableError):
            await node.status()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("sev_launch_start: LAUNCH_START ret=1 fw_error=11 'Bad measurement'", Status.BAD_MEASUREMENT),
        ("SEV: failed to inject secret ret=-5 fw_error=0xb 'Bad measurement'", Status.BAD_MEASUREMENT),
        ("sev_kvm_init: failed to initialize ret=-5 fw_error=24", Status.SECURE_DATA_INVALID),
        ("SEV: Not in correct state. (LSECRET) 1", Status.INVALID_GUEST_STATE),
        ("LAUNCH_FINISH ret=-1 fw_error=99 'unknown error'", 99),
    ],
)
def test_qemus_texts_become_the_firmwares_status(text: str, status: int) -> None:
    error = qemu_error(LaunchError(f"QEMU did not start: {text}"))
    assert isinstance(error, FirmwareError)
    assert error.status == status
    assert text in error.message


@pytest.mark.parametrize(
    "text",
    [
        "SEV is not enabled in KVM",
        "Failed to open /dev/sev: Permission denied",
        "sev_launch_start: LAUNCH_START ret=-22 fw_error=0 ''",
        "SEV: no secret area found in OVMF, gpa must be specified.",
    ],
)
def test_qemus_other_texts_stay_as_they_are(text: str) -> None:
    failure = LaunchError(f"QEMU did not start: {text}")
    assert qemu_error(failure) is failure


def test_the_chain_file_must_be_of_the_platform_as_it_is(tmp_path: Path, template: Path) -> None:
    driver = DeviceDriver()

    async def main() -> None:
        platform = await driver.open(str(template))
        chain = await platform.certificate_chain()
        assert chain == (template / "chain.cert").read_bytes()
        await platform.pdh_gen()
        with pytest.raises(ConflictError) as stale:
            await platform.certificate_chain()
        assert stale.value.code == "platform.chain-stale"
        assert "sealpod sev export --full" in stale.value.remedy
        (template / "chain.cert").unlink()
        with pytest.raises(NotFoundError) as absent:
            await platform.certificate_chain()
        assert absent.value.code == "platform.no-chain"
        assert await platform.vendor_certificates() is None
        await platform.close()

    asyncio.run(main())


def test_auto_takes_the_model_where_the_device_cannot_be_used(tmp_path: Path, state_dir: str) -> None:
    notes: list[str] = []

    async def main() -> None:
        for device in ("/dev/null", str(tmp_path / "absent")):
            platform = await open_platform("auto", state_dir, device=device, progress=notes.append)
            assert platform.kind == "model"
            await platform.close()
        with pytest.raises(NotFoundError) as absent:
            await open_platform("device", device=str(tmp_path / "absent"))
        assert absent.value.code == "platform.absent"

    asyncio.run(main())
    assert len(notes) == 1
    assert "/dev/null cannot be used" in notes[0]
