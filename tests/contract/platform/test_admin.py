# SPDX-License-Identifier: Apache-2.0
"""The contract of the port's other half: a platform's owner takes it, rotates its key, and gives it back."""

from __future__ import annotations

import asyncio
import random

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from platformkit import Driver
from platformplace import PLAIN, Place, opened, refused, spec_of

from sealpod.errors import ConflictError
from sealpod.sev.cert import Algorithm, Certificate, Usage, make, sign
from sealpod.sev.session import Session
from sealpod.sev.status import Status


class Owner:
    """An outside owner: a key, and its self-signed certificate."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP384R1())
        unsigned = make(self.key.public_key(), Usage.OCA, Algorithm.ECDSA_SHA256)
        self.oca = self.signs(unsigned)

    def signs(self, certificate: Certificate, slot: int = 0) -> Certificate:
        return sign(certificate, self.key, Usage.OCA, Algorithm.ECDSA_SHA256, slot)

    async def take(self, place: Place) -> Certificate:
        pek = self.signs(Certificate.decode(await place.platform.pek_csr()))
        await place.platform.pek_cert_import(pek.encode(), self.oca.encode())
        return pek


def test_an_exported_cek_is_unsigned_and_what_the_vendor_publishes_is_its_twin(
    driver: Driver, state_dir: str
) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as place:
            ours = await place.platform.pdh_cert_export()
            cek = Certificate.decode(ours.cek)
            assert all(slot.usage == Usage.INVALID for slot in cek.signatures)
            vendor = await place.platform.vendor_certificates()
            if vendor is not None:
                assert Certificate.decode(vendor.cek).body == cek.body
                chain = ours.pdh + ours.pek + ours.oca + vendor.cek + vendor.ask + vendor.ark
                assert chain == await place.platform.certificate_chain()

    asyncio.run(main())


def test_an_owner_takes_a_platform_and_gives_it_back(driver: Driver, state_dir: str) -> None:
    async def main() -> None:
        owner = Owner()
        async with opened(driver, state_dir) as place:
            before = await place.platform.pdh_cert_export()
            csr = Certificate.decode(await place.platform.pek_csr())
            assert csr.body == Certificate.decode(before.pek).body
            assert all(slot.usage == Usage.INVALID for slot in csr.signatures)
            pek = await owner.take(place)
            after = await place.platform.pdh_cert_export()
            assert (await place.platform.status()).owned
            assert after.oca == owner.oca.encode()
            assert Certificate.decode(after.pek).signatures[0] == pek.signatures[0]
            assert Certificate.decode(after.pek).signatures[1].usage == Usage.CEK
            assert after.pdh != before.pdh
            assert await refused(owner.take(place)) is Status.ALREADY_OWNED
        async with opened(driver, state_dir) as place:
            assert (await place.platform.status()).owned, "ownership survives a restart"
            assert await place.platform.pdh_cert_export() == after
            await place.platform.pek_gen()
            assert not (await place.platform.status()).owned
            again = await place.platform.pdh_cert_export()
            assert len({after.oca, before.oca, again.oca}) == 3
            assert again.pek != before.pek
            assert again.cek == before.cek

    asyncio.run(main())


def test_a_certificate_for_another_platform_does_not_take_this_one(driver: Driver, state_dir: str) -> None:
    async def main() -> None:
        owner, stranger = Owner(), Owner()
        async with opened(driver, state_dir) as place:
            before = await place.platform.pdh_cert_export()
            csr = Certificate.decode(await place.platform.pek_csr())
            other = make(stranger.key.public_key(), Usage.PEK, Algorithm.ECDSA_SHA256)
            attempts = [
                (owner.signs(other).encode(), owner.oca.encode(), Status.INVALID_CERTIFICATE),
                (stranger.signs(csr).encode(), owner.oca.encode(), Status.BAD_SIGNATURE),
                (csr.encode(), owner.oca.encode(), Status.INVALID_CERTIFICATE),
                (owner.signs(csr).encode(), owner.signs(other).encode(), Status.INVALID_CERTIFICATE),
                (owner.signs(csr).encode()[:-1], owner.oca.encode(), Status.INVALID_LENGTH),
            ]
            for pek, oca, status in attempts:
                assert await refused(place.platform.pek_cert_import(pek, oca)) is status
            assert await place.platform.pdh_cert_export() == before
            assert not (await place.platform.status()).owned

    asyncio.run(main())


def test_a_new_pdh_makes_old_sessions_worthless(driver: Driver, state_dir: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as place:
            before = await place.platform.pdh_cert_export()
            pdh = Certificate.decode(before.pdh)
            session = Session.create(pdh, PLAIN.policy, rng=random.Random("owner").randbytes)
            await place.start(spec_of(session))
            await place.platform.pdh_gen()
            after = await place.platform.pdh_cert_export()
            assert (after.pek, after.oca, after.cek) == (before.pek, before.oca, before.cek)
            assert after.pdh != before.pdh
            assert await refused(place.start(spec_of(session))) is Status.BAD_MEASUREMENT
            assert (await place.platform.status()).guest_count == 0

    asyncio.run(main())


def test_a_reset_forgets_owner_and_identity_but_not_the_chip(driver: Driver, state_dir: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as place:
            await Owner().take(place)
            before, chip = await place.platform.pdh_cert_export(), await place.platform.identifier()
            await place.platform.reset()
            assert (await place.platform.status()).state == 0
            await place.platform.reset()
            after = await place.platform.pdh_cert_export()
            status = await place.platform.status()
            assert (status.state, status.owned) == (1, False)
            assert not {before.pdh, before.pek, before.oca} & {after.pdh, after.pek, after.oca}
            assert after.cek == before.cek
            assert await place.platform.identifier() == chip
            await place.start(PLAIN)

    asyncio.run(main())


def test_guests_keep_a_platform_from_being_reset_or_taken(driver: Driver, state_dir: str) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as place, place.launched(PLAIN):
            before = await place.platform.pdh_cert_export()
            with pytest.raises(ConflictError) as caught:
                await place.platform.reset()
            assert caught.value.code == "platform.busy"
            assert await refused(place.platform.pek_gen()) is Status.INVALID_PLATFORM_STATE
            assert await refused(Owner().take(place)) is Status.INVALID_PLATFORM_STATE
            assert await place.platform.pdh_cert_export() == before
            await place.platform.pdh_gen()

    asyncio.run(main())
