# SPDX-License-Identifier: Apache-2.0
"""Run one container in a launched guest and hand out what it writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from sealpod.errors import LaunchError, SealpodError, UnavailableError
from sealpod.sandbox.host import Host
from sealpod.sandbox.launch import Guest, launch_guest, power_off
from sealpod.sandbox.network import NAMESERVER
from sealpod.sandbox.spec import PodSpec
from sealpod.sandbox.timeline import Observation

GOODBYE_SECONDS: Final = 5.0
CONSOLE: Final = "see the guest's console; a guest that ran out of memory needs more (--memory)"
CONTAINER_ID: Final = "main"
Writer = Callable[[bytes], None]


async def run_pod(
    host: Host,
    spec: PodSpec,
    image: str,
    args: Sequence[str],
    seen: Observation,
    *,
    stdout: Writer,
    stderr: Writer,
) -> int:
    """Launch a guest, run ``image`` in it, return the container's exit status. Nothing is left behind.

    ``image`` is the reference as the guest resolves it; empty ``args`` means the image's own command.
    """
    async with launch_guest(host, spec, seen) as guest:
        try:
            status = await _run(guest, image, args, seen, stdout, stderr)
        except UnavailableError as error:
            # The channel closes first; QEMU's end explains it.
            raise await _explained(guest, error) from error
        with seen.timeline.phase("stop"):
            await power_off(guest, GOODBYE_SECONDS)
        return status


async def _run(
    guest: Guest, image: str, args: Sequence[str], seen: Observation, stdout: Writer, stderr: Writer
) -> int:
    phase = seen.timeline.phase
    with phase("sandbox"):
        await guest.agent.configure_network()
        await guest.agent.create_sandbox(guest.name, "sealpod", [f"nameserver {NAMESERVER}"])
    with phase("pull"):
        await guest.agent.create_container(CONTAINER_ID, image, args)
    with phase("run"):
        await guest.agent.start_container(CONTAINER_ID)
        try:
            async with asyncio.TaskGroup() as streams:
                streams.create_task(_copy(guest, "ReadStdout", stdout))
                streams.create_task(_copy(guest, "ReadStderr", stderr))
        except ExceptionGroup as group:
            # Both streams end for the same reason; one error says it.
            raise group.exceptions[0] from None
        return await guest.agent.wait_process(CONTAINER_ID)


async def _copy(guest: Guest, method: str, write: Writer) -> None:
    async for data in guest.agent.output(CONTAINER_ID, method):
        write(data)


async def _explained(guest: Guest, error: UnavailableError) -> SealpodError:
    if error.code != "agent.gone":
        return error
    try:
        async with asyncio.timeout(GOODBYE_SECONDS):
            await guest.machine.wait()
    except TimeoutError:
        return LaunchError(
            "the guest's agent is gone while its virtual machine still runs",
            code="guest.agent-gone",
            remedy=CONSOLE,
            console=guest.machine.console.words(),
        )
    return guest.machine.failure(
        "the guest ended while its container ran", code="guest.ended", remedy=CONSOLE
    )
