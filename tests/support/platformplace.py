# SPDX-License-Identifier: Apache-2.0
"""An open platform in a test, whichever driver's, and launches on it in the port's order."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from platformkit import HASHES_GPA, Content, Driver, Guest

from sealpod.errors import FirmwareError
from sealpod.platform.port import Launch, LaunchSpec, Platform
from sealpod.sev.chain import Chain, verify_chain
from sealpod.sev.policy import Policy
from sealpod.sev.session import Session
from sealpod.sev.status import Status

POLICY = Policy(0x18000003)
SECRET_GPA = 0x10800
SECRET_SIZE = 0x400
CONTENT = Content()


@dataclass
class Place:
    """An open platform, and how launches go on it."""

    driver: Driver
    platform: Platform

    @asynccontextmanager
    async def launched(
        self, spec: LaunchSpec, content: Content = CONTENT
    ) -> AsyncIterator[tuple[Launch, Guest]]:
        """A launch and its paused guest, in the port's order: launch, QEMU, ..., QEMU's end, close."""
        launch = await self.platform.launch(spec)
        try:
            async with self.driver.guest(self.platform, launch, content) as guest:
                yield launch, guest
        finally:
            await launch.close()

    async def start(self, spec: LaunchSpec) -> None:
        """Start a guest and end it."""
        async with self.launched(spec):
            pass

    async def owner(self, policy: Policy = POLICY) -> Session:
        """What a guest owner does who trusts this platform's root."""
        chain = Chain.decode(await self.platform.certificate_chain())
        verify_chain(chain, {chain.ark.sha256: self.platform.kind})
        return Session.create(chain.pdh, policy, rng=random.Random("owner").randbytes)


@asynccontextmanager
async def opened(driver: Driver, state_dir: str) -> AsyncIterator[Place]:
    platform = await driver.open(state_dir)
    try:
        yield Place(driver, platform)
    finally:
        await platform.close()


def spec_of(owner_session: Session | None, **changes: object) -> LaunchSpec:
    values: dict[str, object] = {
        "policy": POLICY if owner_session is None else owner_session.policy,
        "godh": None if owner_session is None else owner_session.godh.encode(),
        "session": None if owner_session is None else owner_session.blob,
        "hashes": CONTENT.hashes,
        "hashes_gpa": HASHES_GPA,
        "secret_gpa": SECRET_GPA,
        "secret_size": SECRET_SIZE,
        "firmware_size": len(CONTENT.flash),
    }
    return LaunchSpec(**(values | changes))  # type: ignore[arg-type]


PLAIN = spec_of(None, policy=Policy(0))


async def refused(work: Awaitable[object]) -> Status:
    with pytest.raises(FirmwareError) as caught:
        await work
    status = Status(caught.value.status)
    assert status.text in caught.value.message
    return status
