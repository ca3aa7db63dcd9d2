# SPDX-License-Identifier: Apache-2.0
"""The contract of the platform port: what every driver owes its callers.

Run against the model's process, and against the device driver on a scripted kernel and QEMU (platformkit). A
driver for other hardware joins by adding itself to ``DRIVERS``.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import AsyncExitStack

import pytest
from platformkit import HASHES_GPA, RAM, Content, Driver
from platformplace import CONTENT, PLAIN, POLICY, SECRET_GPA, opened, refused, spec_of

from sealpod.errors import OperationError, UnavailableError, UsageError, VerificationError
from sealpod.platform.port import Measured
from sealpod.sev.cert import Certificate
from sealpod.sev.measurement import VerifiedLaunch, verify_measurement
from sealpod.sev.packet import Packet
from sealpod.sev.policy import Policy
from sealpod.sev.report import Report, verify_report
from sealpod.sev.session import Session
from sealpod.sev.status import Status

ES_POLICY = Policy(0x5)
SECRET = b"for this guest only".ljust(32, b"\0")
IV = bytes(16)


def verified(session: Session, measured: Measured, *more: bytes) -> VerifiedLaunch:
    digest = hashlib.sha256(b"".join((CONTENT.flash, CONTENT.hashes, *more))).digest()
    return verify_measurement(session.keys, session.policy, measured.version, digest, measured.measurement)


def test_a_platform_says_what_it_is(driver: Driver, state_dir: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as place:
            platform = place.platform
            status = await platform.status()
            assert platform.kind == driver.name
            assert (status.state, status.guest_count, status.owned, status.es) == (1, 0, False, True)
            assert (status.version.api_major, status.version.api_minor) >= (0, 17)
            assert len(await platform.identifier()) == 64
            assert await platform.certificate_chain() == await platform.certificate_chain()

    asyncio.run(main())


def test_a_whole_launch(driver: Driver, state_dir: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as place:
            session = await place.owner()
            async with place.launched(spec_of(session)) as (launch, guest):
                assert (await place.platform.status()).guest_count == 1
                proof = verified(session, await launch.measure(guest))
                assert guest.ram(HASHES_GPA, len(CONTENT.hashes)) == CONTENT.hashes
                await launch.inject(guest, proof.pack(SECRET, iv=IV))
                assert guest.ram(SECRET_GPA, len(SECRET)) == SECRET
                await launch.finish(guest)
                assert (await place.platform.status()).state == 2
            assert (await place.platform.status()).state == 1

    asyncio.run(main())


@pytest.mark.parametrize("vcpus", [1, 2, 4])
def test_an_es_guest_is_measured_with_its_vcpus(driver: Driver, state_dir: str, vcpus: int) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as place:
            session = await place.owner(ES_POLICY)
            content = Content(vcpus=vcpus)
            async with place.launched(spec_of(session), content) as (launch, guest):
                measured = await launch.measure(guest)
                with pytest.raises(VerificationError):
                    verified(session, measured, *Content(vcpus=vcpus + 1).vmsas)
                proof = verified(session, measured, *content.vmsas)
                await launch.inject(guest, proof.pack(SECRET, iv=IV))
                await launch.finish(guest)

    asyncio.run(main())


def test_the_rest_of_the_guests_memory_is_left_alone(driver: Driver, state_dir: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as place:
            session = await place.owner()
            async with place.launched(spec_of(session)) as (launch, guest):
                proof = verified(session, await launch.measure(guest))
                await launch.inject(guest, proof.pack(SECRET, iv=IV))
                expected = bytearray(RAM)
                expected[HASHES_GPA : HASHES_GPA + len(CONTENT.hashes)] = CONTENT.hashes
                expected[SECRET_GPA : SECRET_GPA + len(SECRET)] = SECRET
                assert guest.ram(0, RAM + 1) == expected

    asyncio.run(main())


def test_a_launch_without_owner_hashes_or_secret(driver: Driver, state_dir: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as place:
            spec = spec_of(None, policy=Policy(0), hashes=None, hashes_gpa=None, secret_gpa=None)
            async with place.launched(spec) as (launch, guest):
                await launch.measure(guest)
                await launch.finish(guest)
                assert guest.ram(0, RAM) == bytes(RAM)

    asyncio.run(main())


@pytest.mark.parametrize("changed", ["flash", "kernel"])
def test_what_is_in_the_guest_is_what_is_measured(driver: Driver, state_dir: str, changed: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as place:
            session = await place.owner()
            flash = bytes([CONTENT.flash[0] ^ 1]) + CONTENT.flash[1:]
            content = Content(flash=flash) if changed == "flash" else Content(kernel=b"kernal")
            spec = spec_of(session, hashes=content.hashes)
            async with place.launched(spec, content) as (launch, guest):
                measured = await launch.measure(guest)
                with pytest.raises(VerificationError):
                    verified(session, measured)

    asyncio.run(main())


def test_hashes_are_measured_only_when_there_are_any(driver: Driver, state_dir: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as place:
            session = await place.owner()
            async with place.launched(spec_of(session, hashes=None, hashes_gpa=None)) as (launch, guest):
                measured = await launch.measure(guest)
                digest = hashlib.sha256(CONTENT.flash).digest()
                verify_measurement(
                    session.keys, session.policy, measured.version, digest, measured.measurement
                )

    asyncio.run(main())


def test_a_report_is_signed_by_the_pek_and_tells_what_was_measured(driver: Driver, state_dir: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as place:
            session = await place.owner()
            pek = Certificate.decode((await place.platform.pdh_cert_export()).pek)
            digest = hashlib.sha256(CONTENT.flash + CONTENT.hashes).digest()
            async with place.launched(spec_of(session)) as (launch, guest):
                assert await refused(launch.attestation_report(guest, IV)) is Status.INVALID_GUEST_STATE
                await launch.measure(guest)
                report = Report.decode(await launch.attestation_report(guest, IV))
                verify_report(report, pek, digest=digest, mnonce=IV, policy=POLICY)

    asyncio.run(main())


def test_steps_out_of_order_get_the_firmwares_status(driver: Driver, state_dir: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as place:
            packet = Packet(bytes(52), bytes(16))
            async with place.launched(spec_of(await place.owner())) as (launch, guest):
                assert await refused(launch.inject(guest, packet)) is Status.INVALID_GUEST_STATE
                assert await refused(launch.finish(guest)) is Status.INVALID_GUEST_STATE
                await launch.measure(guest)
                assert await refused(launch.measure(guest)) is Status.INVALID_GUEST_STATE
                await launch.finish(guest)
                assert await refused(launch.finish(guest)) is Status.INVALID_GUEST_STATE
                assert await refused(launch.inject(guest, packet)) is Status.INVALID_GUEST_STATE
            assert await refused(launch.finish(guest)) in (
                Status.INVALID_PLATFORM_STATE,
                Status.INVALID_GUEST,
            )

    asyncio.run(main())


def test_tampering_gets_the_firmwares_status(driver: Driver, state_dir: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as place:
            session = await place.owner()
            blob = bytes([session.blob[16] ^ 1])
            changed = session.blob[:16] + blob + session.blob[17:]
            bad_start = place.start(spec_of(session, session=changed))
            assert await refused(bad_start) is Status.BAD_MEASUREMENT
            bad_policy = place.start(spec_of(session, policy=Policy(3)))
            assert await refused(bad_policy) is Status.BAD_MEASUREMENT
            newer = await place.owner(Policy(0x19000003))
            assert await refused(place.start(spec_of(newer))) is Status.POLICY_FAILURE
            assert (await place.platform.status()).guest_count == 0
            async with place.launched(spec_of(session)) as (launch, guest):
                packet = verified(session, await launch.measure(guest)).pack(SECRET, iv=IV)
                bad_packet = Packet(packet.header, bytes(len(packet.data)))
                assert await refused(launch.inject(guest, bad_packet)) is Status.BAD_MEASUREMENT
                assert guest.ram(SECRET_GPA, len(SECRET)) == bytes(len(SECRET))
                await launch.inject(guest, packet)

    asyncio.run(main())


def test_a_secret_outside_ram_is_refused_and_ram_does_not_grow(driver: Driver, state_dir: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as place:
            session = await place.owner()
            async with place.launched(spec_of(session, secret_gpa=RAM - 16)) as (launch, guest):
                packet = verified(session, await launch.measure(guest)).pack(SECRET, iv=IV)
                with pytest.raises(OperationError):
                    await launch.inject(guest, packet)
                assert len(guest.ram(0, RAM + 4096)) == RAM

    asyncio.run(main())


def test_a_specification_with_half_of_something_is_refused(driver: Driver, state_dir: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as place:
            session = await place.owner()
            halves: list[dict[str, object]] = [{"godh": None}, {"hashes_gpa": None}, {"firmware_size": 0}]
            for half in halves:
                with pytest.raises(UsageError):
                    await place.platform.launch(spec_of(session, **half))
            for missing in ("secret_gpa", "secret_size"):
                async with place.launched(spec_of(session, **{missing: None})) as (launch, guest):
                    packet = verified(session, await launch.measure(guest)).pack(SECRET, iv=IV)
                    with pytest.raises(UsageError) as caught:
                        await launch.inject(guest, packet)
                    assert caught.value.code == "platform.no-secret-area"

    asyncio.run(main())


def test_a_secret_larger_than_the_firmwares_area_is_refused(driver: Driver, state_dir: str) -> None:
    """What lies behind the area is the hashes the guest checks its kernel with."""

    async def main() -> None:
        async with opened(driver, state_dir) as place:
            session = await place.owner()
            async with place.launched(spec_of(session, secret_size=len(SECRET))) as (launch, guest):
                owner = verified(session, await launch.measure(guest))
                behind = guest.ram(SECRET_GPA, 4096)
                with pytest.raises(UsageError) as caught:
                    await launch.inject(guest, owner.pack(SECRET + bytes(16), iv=IV))
                assert caught.value.code == "platform.secret-size"
                assert guest.ram(SECRET_GPA, 4096) == behind
                await launch.inject(guest, owner.pack(SECRET, iv=IV))
                await launch.finish(guest)

    asyncio.run(main())


def test_launches_side_by_side_are_independent(driver: Driver, state_dir: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as place:
            async with AsyncExitStack() as scope:

                async def one(text: bytes) -> None:
                    session = await place.owner()
                    launch, guest = await scope.enter_async_context(place.launched(spec_of(session)))
                    proof = verified(session, await launch.measure(guest))
                    await launch.inject(guest, proof.pack(text, iv=IV))
                    assert guest.ram(SECRET_GPA, 16) == text
                    await launch.finish(guest)

                texts = [f"guest {number}".encode().ljust(16, b"\0") for number in range(4)]
                await asyncio.gather(*(one(text) for text in texts))
                assert (await place.platform.status()).guest_count == 4
            assert (await place.platform.status()).guest_count == 0

    asyncio.run(main())


def test_closing_is_idempotent_and_safe_after_the_platform_is_gone(driver: Driver, state_dir: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as place, place.launched(PLAIN) as (second, guest):
            async with place.launched(PLAIN) as (first, _):
                pass
            await first.close()
            assert (await place.platform.status()).guest_count == 1
            await place.platform.close()
            await place.platform.close()
            with pytest.raises(UnavailableError):
                await place.platform.launch(PLAIN)
            with pytest.raises(UnavailableError):
                await place.platform.status()
            with pytest.raises(UnavailableError):
                await second.measure(guest)
            await second.close()

    asyncio.run(main())


def test_many_launches_one_after_the_other(driver: Driver, state_dir: str) -> None:
    """Handles and address space ids come back: more launches than a platform has of either."""

    async def main() -> None:
        async with opened(driver, state_dir) as place:
            for _ in range(600):
                await place.start(PLAIN)
            assert (await place.platform.status()).guest_count == 0

    asyncio.run(main())
