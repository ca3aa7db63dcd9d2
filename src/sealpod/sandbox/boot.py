# SPDX-License-Identifier: Apache-2.0
"""Wait for a resumed guest's agent, and say why when it does not come.

Three things can end the wait besides the agent: QEMU ends, the firmware halts, or the time is over. AmdSev
OVMF halts in a dead loop when kernel, initrd or command line differ from the measured hashes; it says
nothing on the console. It is recognised by its processor: an instruction pointer that stays within a few
bytes of low memory, sample after sample, before the guest has printed a line. A running kernel lives in
high memory, and its decompressor moves.
"""

from __future__ import annotations

import asyncio
from typing import Final

from sealpod.errors import DeadlineError, LaunchError
from sealpod.qemu.machine import Machine
from sealpod.sandbox.agent import AgentClient

BOOT_SECONDS: Final = 120.0  # an emulated guest on a loaded machine needs tens of seconds
SAMPLE_SECONDS: Final = 0.5
HALT_SAMPLES: Final = 8  # 4 s in one loop
LOOP_BYTES: Final = 64  # a dead loop is a handful of instructions
KERNEL_SPACE: Final = 1 << 47  # addresses at or above it are Linux'
INIT_LINE: Final = "sealpod: init"
FAILED_LINE: Final = "sealpod: agent failed"


async def wait_for_agent(machine: Machine, agent: AgentClient) -> None:
    """Return when the agent answers. Raises LaunchError or DeadlineError, with the console's last lines."""
    answer = asyncio.create_task(agent.check())
    ended = asyncio.create_task(machine.wait())
    halted = asyncio.create_task(_watch_processor(machine))
    tasks: list[asyncio.Task[object]] = [answer, ended, halted]
    try:
        done, _ = await asyncio.wait(tasks, timeout=BOOT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if ended in done:
            raise _ended(machine)
        if halted in done:
            halted.result()
        if answer in done:
            if answer.exception() is not None and await _is_ending(machine):
                raise _ended(machine)
            answer.result()
            return
        if not done:
            raise _late(machine)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _is_ending(machine: Machine) -> bool:
    # The agent's channel closes a moment before QEMU's exit is seen.
    try:
        async with asyncio.timeout(2.0):
            await machine.wait()
    except TimeoutError:
        return False
    return True


def _ended(machine: Machine) -> LaunchError:
    reason = next((line for line in reversed(machine.console.tail(50)) if FAILED_LINE in line), "")
    message = f"the guest ended while it started{': ' + reason if reason else ''}"
    return machine.failure(message, code="launch.ended", remedy="see the guest's console")


def _late(machine: Machine) -> DeadlineError:
    last = machine.console.tail(1) or ("nothing",)
    return DeadlineError(
        f"the guest's agent did not answer within {BOOT_SECONDS:g} s, its console says last: {last[0]}",
        code="launch.deadline",
        remedy="look at the console with --debug; a loaded machine may just be slow",
    )


async def _watch_processor(machine: Machine) -> None:
    """Raise when the firmware has halted or the accelerator failed; return never."""
    booted = machine.console.watch(INIT_LINE)
    first: int | None = None
    still = 0
    while True:
        await asyncio.sleep(SAMPLE_SECONDS)
        if await machine.status() == "internal-error":
            raise machine.failure(
                "the processor cannot run this guest under KVM",
                code="launch.accelerator",
                remedy="use --accelerator tcg",
            )
        if booted.is_set():
            continue
        pointer = await machine.instruction_pointer()
        if pointer is None or pointer >= KERNEL_SPACE:
            first, still = None, 0
        elif first is not None and abs(pointer - first) <= LOOP_BYTES:
            still += 1
        else:
            first, still = pointer, 0
        if still >= HALT_SAMPLES:
            raise machine.failure(
                "the guest's firmware halted: its kernel, initrd or command line is not the measured one",
                code="launch.firmware-halted",
                remedy="restore the files that were measured, or measure the new ones and update the policy",
            )
