# SPDX-License-Identifier: Apache-2.0
"""Wait for a resumed guest's agent, and say why when it does not come.

Three things can end the wait besides the agent: QEMU ends, the firmware halts, or the time is over. AmdSev
OVMF halts in a dead loop when kernel, initrd or command line differ from the measured hashes; it says
nothing on the console. It is recognised by its processor: an instruction pointer that stays within a few
bytes of low memory, sample after sample, before the guest has printed a line. A running kernel lives in
high memory, and its decompressor moves. A guest whose registers are hidden (SEV-ES on silicon) cannot be
told from one that works; there the wait ends with its time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from sealpod.errors import DeadlineError, LaunchError
from sealpod.qemu import vsock
from sealpod.qemu.machine import Machine

SAMPLE_SECONDS: Final = 0.5
HALT_SAMPLES: Final = 8  # 4 s in one loop
LOOP_BYTES: Final = 64  # a dead loop is a handful of instructions
KERNEL_SPACE: Final = 1 << 47  # addresses at or above it are Linux'
INIT_LINE: Final = "sealpod: init"
FAILED_LINES: Final = ("sealpod: agent failed", "sealpod: init failed", "Kernel panic")

_T = TypeVar("_T")


async def wait_for_agent(machine: Machine, agent: Awaitable[_T], seconds: float) -> _T:
    """What ``agent`` gives once the guest's agent answers it, which it has ``seconds`` for.

    Raises LaunchError or DeadlineError, with the console's last lines.
    """
    answer = asyncio.ensure_future(agent)
    ended = asyncio.create_task(machine.wait())
    halted = asyncio.create_task(_watch_processor(machine))
    tasks: list[asyncio.Future[object]] = [answer, ended, halted]  # type: ignore[list-item]
    try:
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if ended in done:
            raise _ended(machine)
        if halted in done:
            halted.result()
        if answer in done:
            if answer.exception() is not None and await _is_ending(machine):
                raise _ended(machine)
            return answer.result()
        raise _late(machine, seconds)
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
    lines = machine.console.tail(50)
    reason = next((line for line in lines if any(mark in line for mark in FAILED_LINES)), "")
    message = f"the guest ended while it started{': ' + reason if reason else ''}"
    return machine.failure(message, code="launch.ended", remedy="see the guest's console")


def _late(machine: Machine, seconds: float) -> DeadlineError:
    last = machine.console.tail(1) or ("nothing",)
    way = f" on vsock {machine.cid}:{vsock.AGENT_PORT}" if machine.cid else ""
    return DeadlineError(
        f"the guest's agent did not answer{way} within {seconds:g} s, its console says last: {last[0]}",
        code="launch.deadline",
        remedy="see the guest's whole console in debug mode; a machine that is just slow needs longer"
        " (dial_timeout of a pod's configuration)",
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
        if booted.is_set() or machine.spec.hidden_registers:
            continue
        pointer = await machine.instruction_pointer()
        if pointer is None or pointer >= KERNEL_SPACE:
            first, still = None, 0
        elif first is not None and abs(pointer - first) <= LOOP_BYTES:
            still += 1
        else:
            first, still = pointer, 0
        if still >= HALT_SAMPLES:
            raise _halted(machine)


def _halted(machine: Machine) -> LaunchError:
    if not machine.spec.firmware:
        return machine.failure(
            "the guest's processor stands still before its kernel said anything",
            code="launch.halted",
            remedy="check that kernel and initrd are a guest's, and that it has memory enough for them",
        )
    return machine.failure(
        "the guest's firmware halted: its kernel, initrd or command line is not the measured one",
        code="launch.firmware-halted",
        remedy="restore the files that were measured, or measure the new ones and update the policy",
    )
