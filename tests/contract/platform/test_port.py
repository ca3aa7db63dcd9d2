# SPDX-License-Identifier: Apache-2.0
"""The contract of the platform port: what every driver owes its callers.

Run against the model with a guest that is a memfd of RAM and some bytes of flash. A driver that needs
hardware joins by adding itself to ``DRIVERS`` with a guest of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sealpod.errors import FirmwareError, OperationError, UnavailableError, UsageError, VerificationError
from sealpod.platform.model import open_model
from sealpod.platform.port import Launch, LaunchSpec, Measured, Platform
from sealpod.sev.chain import Chain, verify_chain
from sealpod.sev.measurement import VerifiedLaunch, verify_measurement
from sealpod.sev.packet import Packet
from sealpod.sev.policy import Policy
from sealpod.sev.session import Session
from sealpod.sev.status import Status

POLICY = Policy(0x18000003)
FLASH = random.Random("flash").randbytes(3 * 65536)
HASHES = random.Random("hashes").randbytes(176)
HASHES_GPA = 0x10C00
SECRET_GPA = 0x10800
SECRET = b"for this guest only".ljust(32, b"\0")
RAM = 1 << 20
IV = bytes(16)

Opener = Callable[[str], Awaitable[Platform]]
DRIVERS: dict[str, Opener] = {"model": open_model}


class FakeGuest:
    """A paused guest: RAM in a memfd, flash that ends at 4 GiB. Refuses to be read anywhere else."""

    def __init__(self, flash: bytes = FLASH) -> None:
        self.ram_fd = os.memfd_create("ram", os.MFD_CLOEXEC)
        os.truncate(self.ram_fd, RAM)
        self.flash = flash

    async def qmp(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        raise AssertionError(f"unexpected QMP command {command}")

    async def read_physical(self, gpa: int, size: int) -> bytes:
        start = gpa - ((4 << 30) - len(self.flash))
        assert start >= 0
        return self.flash[start : start + size]

    def ram(self, gpa: int, size: int) -> bytes:
        return os.pread(self.ram_fd, size, gpa)

    def close(self) -> None:
        os.close(self.ram_fd)


@pytest.fixture(scope="session", params=sorted(DRIVERS))
def driver(request: pytest.FixtureRequest) -> Opener:
    return DRIVERS[request.param]


@pytest.fixture(scope="session")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("contract") / "platform"
    return str(path)


@asynccontextmanager
async def opened(driver: Opener, state_dir: str) -> AsyncIterator[tuple[Platform, FakeGuest]]:
    platform, guest = await driver(state_dir), FakeGuest()
    try:
        yield platform, guest
    finally:
        guest.close()
        await platform.close()


async def owner(platform: Platform, policy: Policy = POLICY) -> Session:
    """What a guest owner does who trusts this platform's root."""
    chain = Chain.decode(await platform.certificate_chain())
    verify_chain(chain, {chain.ark.sha256: platform.kind})
    return Session.create(chain.pdh, policy, rng=random.Random("owner").randbytes)


def spec_of(owner_session: Session | None, **changes: object) -> LaunchSpec:
    values: dict[str, object] = {
        "policy": POLICY if owner_session is None else owner_session.policy,
        "godh": None if owner_session is None else owner_session.godh.encode(),
        "session": None if owner_session is None else owner_session.blob,
        "hashes": HASHES,
        "hashes_gpa": HASHES_GPA,
        "secret_gpa": SECRET_GPA,
        "firmware_size": len(FLASH),
    }
    return LaunchSpec(**(values | changes))  # type: ignore[arg-type]


def verified(session: Session, measured: Measured, measured_bytes: bytes = FLASH + HASHES) -> VerifiedLaunch:
    digest = hashlib.sha256(measured_bytes).digest()
    return verify_measurement(session.keys, session.policy, measured.version, digest, measured.measurement)


def test_a_platform_says_what_it_is(driver: Opener, state_dir: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as (platform, _):
            status = await platform.status()
            assert platform.kind in ("model", "device")
            assert (status.state, status.guest_count) == (1, 0)
            assert (status.version.api_major, status.version.api_minor) >= (0, 17)
            assert len(await platform.identifier()) == 64
            assert await platform.certificate_chain() == await platform.certificate_chain()

    asyncio.run(main())


def test_a_whole_launch(driver: Opener, state_dir: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as (platform, guest):
            session = await owner(platform)
            launch = await platform.launch(spec_of(session))
            assert isinstance(launch.needs((7, 2)).arguments, tuple)
            assert (await platform.status()).guest_count == 1
            proof = verified(session, await launch.measure(guest))
            assert guest.ram(HASHES_GPA, len(HASHES)) == HASHES
            await launch.inject(guest, proof.pack(SECRET, iv=IV))
            assert guest.ram(SECRET_GPA, len(SECRET)) == SECRET
            await launch.finish(guest)
            assert (await platform.status()).state == 2
            await launch.close()
            assert (await platform.status()).state == 1

    asyncio.run(main())


def test_the_rest_of_the_guests_memory_is_left_alone(driver: Opener, state_dir: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as (platform, guest):
            session = await owner(platform)
            launch = await platform.launch(spec_of(session))
            proof = verified(session, await launch.measure(guest))
            await launch.inject(guest, proof.pack(SECRET, iv=IV))
            expected = bytearray(RAM)
            expected[HASHES_GPA : HASHES_GPA + len(HASHES)] = HASHES
            expected[SECRET_GPA : SECRET_GPA + len(SECRET)] = SECRET
            assert guest.ram(0, RAM) == expected
            assert os.fstat(guest.ram_fd).st_size == RAM
            await launch.close()

    asyncio.run(main())


def test_a_launch_without_owner_hashes_or_secret(driver: Opener, state_dir: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as (platform, guest):
            spec = spec_of(None, policy=Policy(0), hashes=None, hashes_gpa=None, secret_gpa=None)
            launch = await platform.launch(spec)
            await launch.measure(guest)
            await launch.finish(guest)
            assert guest.ram(0, RAM) == bytes(RAM)
            await launch.close()

    asyncio.run(main())


@pytest.mark.parametrize("changed", ["flash", "hashes"])
def test_what_is_in_the_guest_is_what_is_measured(driver: Opener, state_dir: str, changed: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as (platform, guest):
            session = await owner(platform)
            other = bytes([HASHES[0] ^ 1]) + HASHES[1:]
            spec = spec_of(session, **({"hashes": other} if changed == "hashes" else {}))
            if changed == "flash":
                guest.flash = FLASH[:-1] + bytes([FLASH[-1] ^ 1])
            launch = await platform.launch(spec)
            measured = await launch.measure(guest)
            with pytest.raises(VerificationError):
                verified(session, measured)
            await launch.close()

    asyncio.run(main())


def test_hashes_are_measured_only_when_there_are_any(driver: Opener, state_dir: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as (platform, guest):
            session = await owner(platform)
            launch = await platform.launch(spec_of(session, hashes=None, hashes_gpa=None))
            verified(session, await launch.measure(guest), FLASH)
            await launch.close()

    asyncio.run(main())


async def refused(work: Awaitable[object]) -> Status:
    with pytest.raises(FirmwareError) as caught:
        await work
    status = Status(caught.value.status)
    assert status.text in caught.value.message
    return status


def test_steps_out_of_order_get_the_firmwares_status(driver: Opener, state_dir: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as (platform, guest):
            launch = await platform.launch(spec_of(await owner(platform)))
            packet = Packet(bytes(52), bytes(16))
            assert await refused(launch.inject(guest, packet)) is Status.INVALID_GUEST_STATE
            assert await refused(launch.finish(guest)) is Status.INVALID_GUEST_STATE
            await launch.measure(guest)
            assert await refused(launch.measure(guest)) is Status.INVALID_GUEST_STATE
            await launch.finish(guest)
            assert await refused(launch.finish(guest)) is Status.INVALID_GUEST_STATE
            assert await refused(launch.inject(guest, packet)) is Status.INVALID_GUEST_STATE
            await launch.close()
            assert await refused(launch.finish(guest)) in (
                Status.INVALID_PLATFORM_STATE,
                Status.INVALID_GUEST,
            )

    asyncio.run(main())


def test_tampering_gets_the_firmwares_status(driver: Opener, state_dir: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as (platform, guest):
            session = await owner(platform)
            blob = bytes([session.blob[16] ^ 1])
            changed = session.blob[:16] + blob + session.blob[17:]
            bad_start = platform.launch(spec_of(session, session=changed))
            assert await refused(bad_start) is Status.BAD_MEASUREMENT
            bad_policy = platform.launch(spec_of(session, policy=Policy(3)))
            assert await refused(bad_policy) is Status.BAD_MEASUREMENT
            assert (await platform.status()).guest_count == 0
            launch = await platform.launch(spec_of(session))
            packet = verified(session, await launch.measure(guest)).pack(SECRET, iv=IV)
            bad_packet = Packet(packet.header, bytes(len(packet.data)))
            assert await refused(launch.inject(guest, bad_packet)) is Status.BAD_MEASUREMENT
            assert guest.ram(SECRET_GPA, len(SECRET)) == bytes(len(SECRET))
            await launch.inject(guest, packet)
            await launch.close()

    asyncio.run(main())


def test_a_secret_or_hashes_outside_ram_are_refused_and_ram_does_not_grow(
    driver: Opener, state_dir: str
) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as (platform, guest):
            session = await owner(platform)
            launch = await platform.launch(spec_of(session, hashes_gpa=RAM - 16))
            with pytest.raises(OperationError):
                await launch.measure(guest)
            await launch.close()
            launch = await platform.launch(spec_of(session, secret_gpa=RAM - 16))
            packet = verified(session, await launch.measure(guest)).pack(SECRET, iv=IV)
            assert await refused(launch.inject(guest, packet)) is Status.INVALID_ADDRESS
            await launch.close()
            assert os.fstat(guest.ram_fd).st_size == RAM

    asyncio.run(main())


def test_a_flash_that_is_short_is_not_measured(driver: Opener, state_dir: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as (platform, guest):
            launch = await platform.launch(spec_of(await owner(platform)))

            async def short(gpa: int, size: int) -> bytes:
                return FLASH[:-1]

            guest.read_physical = short  # type: ignore[method-assign]
            with pytest.raises(OperationError):
                await launch.measure(guest)
            await launch.close()

    asyncio.run(main())


def test_a_secret_needs_an_area(driver: Opener, state_dir: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as (platform, guest):
            launch = await platform.launch(spec_of(await owner(platform), secret_gpa=None))
            await launch.measure(guest)
            with pytest.raises(UsageError):
                await launch.inject(guest, Packet(bytes(52), bytes(16)))
            await launch.close()

    asyncio.run(main())


def test_launches_side_by_side_are_independent(driver: Opener, state_dir: str) -> None:
    async def one(platform: Platform, text: bytes) -> tuple[Launch, FakeGuest]:
        guest = FakeGuest()
        session = await owner(platform)
        launch = await platform.launch(spec_of(session))
        proof = verified(session, await launch.measure(guest))
        await launch.inject(guest, proof.pack(text, iv=IV))
        assert guest.ram(SECRET_GPA, 16) == text
        return launch, guest

    async def main() -> None:
        async with opened(driver, state_dir) as (platform, _):
            texts = [f"guest {number}".encode().ljust(16, b"\0") for number in range(4)]
            pairs = await asyncio.gather(*(one(platform, text) for text in texts))
            assert (await platform.status()).guest_count == 4
            for launch, guest in pairs:
                await launch.finish(guest)
                await launch.close()
                guest.close()
            assert (await platform.status()).guest_count == 0

    asyncio.run(main())


def test_closing_is_idempotent_and_safe_after_the_platform_is_gone(driver: Opener, state_dir: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as (platform, guest):
            first = await platform.launch(spec_of(None, policy=Policy(0)))
            second = await platform.launch(spec_of(None, policy=Policy(0)))
            await first.close()
            await first.close()
            assert (await platform.status()).guest_count == 1
            await platform.close()
            await platform.close()
            await second.close()
            with pytest.raises(UnavailableError):
                await platform.launch(spec_of(None, policy=Policy(0)))
            with pytest.raises(UnavailableError):
                await second.measure(guest)

    asyncio.run(main())


def test_many_launches_one_after_the_other(driver: Opener, state_dir: str) -> None:
    """Handles and address space ids come back: more launches than a platform has of either."""

    async def main() -> None:
        async with opened(driver, state_dir) as (platform, _):
            spec = spec_of(None, policy=Policy(0))
            for _ in range(600):
                launch = await platform.launch(spec)
                await launch.close()
            assert (await platform.status()).guest_count == 0

    asyncio.run(main())
