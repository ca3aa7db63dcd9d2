# SPDX-License-Identifier: Apache-2.0
"""Waiting for a guest whose processor stands still, and for one whose processor nobody sees."""

from __future__ import annotations

import asyncio

import pytest

from sealpod.errors import DeadlineError, LaunchError
from sealpod.qemu.arguments import MachineSpec
from sealpod.qemu.console import Console
from sealpod.sandbox import boot

SAMPLES = 50


class Machine:
    """A guest whose instruction pointer never moves; its agent answers after ``SAMPLES`` looks at it."""

    def __init__(self, *, hidden: bool) -> None:
        files = {"firmware": "/f", "kernel": "/k", "initrd": "/i", "cmdline": ""}
        sizes = {"memory": 512, "cpus": 1, "accelerator": "kvm"}
        self.spec = MachineSpec("x", **files, **sizes, hidden_registers=hidden)  # type: ignore[arg-type]
        self.console = Console()
        self.cid = 0
        self.looks = 0
        self.answered = asyncio.Event()

    async def status(self) -> str:
        self.looks += 1
        if self.looks > SAMPLES:
            self.answered.set()
        return "running"

    async def instruction_pointer(self) -> int:
        return 0xFFF0

    async def wait(self) -> int:
        return await asyncio.get_running_loop().create_future()

    def failure(self, message: str, *, code: str, remedy: str) -> LaunchError:
        return LaunchError(message, code=code, remedy=remedy)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot, "SAMPLE_SECONDS", 0)


async def wait(machine: Machine, seconds: float = 120) -> object:
    async def agent() -> str:
        await machine.answered.wait()
        return "agent"

    return await boot.wait_for_agent(machine, agent(), seconds)  # type: ignore[arg-type]


def test_a_processor_that_stands_still_is_a_firmware_that_halted() -> None:
    async def main() -> None:
        with pytest.raises(LaunchError) as caught:
            await wait(Machine(hidden=False))
        assert caught.value.code == "launch.firmware-halted"

    asyncio.run(main())


def test_registers_that_are_hidden_tell_nothing() -> None:
    async def main() -> None:
        machine = Machine(hidden=True)
        assert await wait(machine) == "agent"
        assert machine.looks > SAMPLES > boot.HALT_SAMPLES

    asyncio.run(main())


@pytest.mark.parametrize(("cid", "way"), [(0, ""), (1234, " on vsock 1234:1024")])
def test_an_agent_that_is_late_is_told_with_the_time_it_had(cid: int, way: str) -> None:
    async def main() -> None:
        machine = Machine(hidden=True)
        machine.cid = cid
        machine.answered.set = lambda: None  # type: ignore[method-assign]
        with pytest.raises(DeadlineError) as caught:
            await wait(machine, 0.05)
        assert caught.value.code == "launch.deadline"
        assert f"did not answer{way} within 0.05 s, its console says last: nothing" in caught.value.message
        assert "dial_timeout" in (caught.value.remedy or "")

    asyncio.run(main())
