# SPDX-License-Identifier: Apache-2.0
"""What a platform keeps: its identity and owner over any end of its process, its guests over none."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from sealpod.errors import ConflictError, FirmwareError, UnavailableError
from sealpod.platform.model import open_model
from sealpod.platform.model.client import ModelPlatform, start
from sealpod.platform.port import LaunchSpec
from sealpod.sev.policy import Policy
from sealpod.sev.status import Status

PLAIN = LaunchSpec(Policy(0), None, None, None, None, None, None, 4096)


async def kill(platform: ModelPlatform) -> None:
    """End the firmware's process with a signal it cannot answer."""
    os.kill(platform.pid, signal.SIGKILL)
    with pytest.raises(UnavailableError):
        await platform.status()
    await platform.close()


def test_the_identity_survives_a_kill_and_a_reset_makes_a_new_one(state_dir: str) -> None:
    async def main() -> None:
        chains = []
        for _ in range(3):
            platform = await start(state_dir)
            chains.append(await platform.certificate_chain())
            await platform.launch(PLAIN)
            await kill(platform)
        assert len(set(chains)) == 1
        platform = await start(state_dir)
        assert (await platform.status()).guest_count == 0, "the guests are gone with their process"
        await platform.reset()
        await kill(platform)
        platform = await start(state_dir)
        assert await platform.certificate_chain() != chains[0]
        await platform.close()

    asyncio.run(main())


@pytest.mark.parametrize("moment", range(4))
def test_a_kill_in_the_middle_of_a_change_leaves_one_identity_or_the_other(
    state_dir: str, moment: int
) -> None:
    async def main() -> None:
        platform = await start(state_dir)
        before = await platform.pdh_cert_export()
        changing = asyncio.create_task(platform.pek_gen())
        for _ in range(moment + 1):
            await asyncio.sleep(0)
        os.kill(platform.pid, signal.SIGKILL)
        await asyncio.wait([changing])
        changing.exception()
        await platform.close()
        again = await start(state_dir)
        after = await again.pdh_cert_export()
        assert after.cek == before.cek
        assert (after == before) or not {after.pdh, after.pek, after.oca} & {
            before.pdh,
            before.pek,
            before.oca,
        }
        await again.close()
        assert not [
            name for name in os.listdir(state_dir) if name.endswith(".new") and name != "identity.new"
        ]

    asyncio.run(main())


def test_guests_of_another_process_count_and_keep_the_platform(state_dir: str) -> None:
    async def main() -> None:
        pod, tool = await start(state_dir), await start(state_dir)
        launch = await pod.launch(PLAIN)
        seen = await tool.status()
        assert (seen.state, seen.guest_count) == (2, 1)
        with pytest.raises(ConflictError):
            await tool.reset()
        with pytest.raises(FirmwareError) as caught:
            await tool.pek_gen()
        assert caught.value.status == Status.INVALID_PLATFORM_STATE
        await tool.pdh_gen()
        await launch.close()
        assert (await tool.status()).guest_count == 0
        await tool.reset()
        await pod.close()
        await tool.close()

    asyncio.run(main())


def test_a_corrupt_identity_is_told_once_and_then_replaced(state_dir: str) -> None:
    async def main() -> None:
        await (await open_model(state_dir)).close()
        path = Path(state_dir) / "identity"
        data = bytearray(path.read_bytes())
        data[100] ^= 1
        path.write_bytes(data)
        with pytest.raises(FirmwareError) as caught:
            await open_model(state_dir)
        assert caught.value.status == Status.SECURE_DATA_INVALID
        await (await open_model(state_dir)).close()

    asyncio.run(main())
