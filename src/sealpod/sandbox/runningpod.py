# SPDX-License-Identifier: Apache-2.0
"""A pod's machine while it runs: watched, described, and taken down once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Final

from sealpod.errors import DeadlineError, LaunchError, OperationError, SealpodError
from sealpod.sandbox.agent import AgentClient
from sealpod.sandbox.diagnosis import explained
from sealpod.sandbox.launch import Guest, power_off
from sealpod.sandbox.podcgroup import PodCgroup
from sealpod.sandbox.podsettings import PodSettings
from sealpod.sandbox.state import SandboxState
from sealpod.sandbox.timeline import Observation

CHECK_SECONDS: Final = 5.0  # Kata's interval
# An emulated guest shares its processor with everything else of the host: late is not yet dead.
CHECK_LIMIT: Final = 60.0
ENDING_SECONDS: Final = 2.0  # the agent's channel closes a moment before QEMU's end is seen
CONSOLE_KEPT: Final = 200  # lines in console.log
REMEDY: Final = (
    "see the guest's console; a guest that ran out of memory needs a higher limit or default_memory"
)

_logger = logging.getLogger(__name__)


class RunningPod:
    """A booted pod. Made by :func:`sealpod.sandbox.podvm.start_pod`, which gives it its whole scope."""

    def __init__(
        self,
        settings: PodSettings,
        guest: Guest,
        state: SandboxState,
        record: Mapping[str, object],
        seen: Observation,
        scope: contextlib.AsyncExitStack,
        cgroup: PodCgroup | None = None,
    ) -> None:
        self.settings = settings
        self.agent: AgentClient = guest.agent
        self._guest = guest
        self._machine = guest.machine
        self._state = state
        self._record = record
        self._seen = seen
        self._scope = scope
        self._cgroup = cgroup
        self._logged: tuple[str, ...] = ()
        self._ended: asyncio.Future[SealpodError] = asyncio.get_running_loop().create_future()
        self._stopping: asyncio.Task[None] | None = None
        self._watcher = asyncio.create_task(self._watch())

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._machine.pid

    def confine(self, container_id: str, cpus: str, mems: str) -> None:
        """The machine's processors run where all of its containers together may."""
        if self._cgroup is not None:
            self._cgroup.confine(container_id, cpus, mems)

    async def wait(self) -> SealpodError:
        """Return why the machine is gone, when it is; it is killed when its agent stops answering."""
        return await asyncio.shield(self._ended)

    async def stop(self, seconds: float = 5.0) -> None:
        """Let the guest end in ``seconds``, then remove everything of it. Idempotent; many may wait."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(seconds))
        await asyncio.shield(self._stopping)

    def console(self, lines: int) -> tuple[str, ...]:
        """The guest's last lines."""
        return self._machine.console.tail(lines)

    def describe(self) -> dict[str, object]:
        """What ``sealpod sandbox inspect`` shows."""
        return {
            **self._record,
            "state": "running" if not self._ended.done() else "ended",
            "phases": [
                {"name": phase.name, "seconds": round(phase.seconds, 3)}
                for phase in self._seen.timeline.phases
            ],
            "cmdline": self.settings.cmdline,
            "warnings": list(self.settings.warnings),
        }

    async def _stop(self, seconds: float) -> None:
        self._watcher.cancel()
        await asyncio.gather(self._watcher, return_exceptions=True)
        if self._machine.exit_code is None:
            await power_off(self._guest, seconds)
        try:
            await self._scope.aclose()
        finally:
            self._end(OperationError("the sandbox was stopped", code="sandbox.stopped"))

    def _end(self, error: SealpodError) -> None:
        if not self._ended.done():
            self._ended.set_result(error)

    async def _watch(self) -> None:
        ended = asyncio.create_task(self._machine.wait())
        health = asyncio.create_task(self._check())
        try:
            await asyncio.wait((ended, health), return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ENDING_SECONDS):
                        await asyncio.shield(ended)
            error = self._machine_ended() if ended.done() else self._agent_gone(health)
            self._machine.kill()
            await self._machine.wait()
            self._machine.forget_memory()
        finally:
            for task in (ended, health):
                task.cancel()
            await asyncio.gather(ended, health, return_exceptions=True)
        self._keep_console()
        told = explained(error, "", self._machine.console.words())
        _logger.error("%s", told.one_line())
        self._end(told)

    async def _check(self) -> SealpodError:
        """Return the reason when the agent is gone."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                await self.agent.check(seconds=CHECK_LIMIT)
            except SealpodError as error:
                return error
            self._keep_console()

    def _machine_ended(self) -> SealpodError:
        console = self._machine.console.tail()
        if self._cgroup is not None and (killed := self._cgroup.killed_for_memory(console)):
            return killed
        return self._machine.failure("the guest's machine ended", code="guest.ended", remedy=REMEDY)

    def _agent_gone(self, health: asyncio.Task[SealpodError]) -> LaunchError:
        late = health.done() and isinstance(health.result(), DeadlineError)
        what = f"did not answer for {CHECK_LIMIT:g} s" if late else "is gone"
        return self._machine.failure(
            f"the guest's agent {what}; its machine was stopped", code="guest.agent-gone", remedy=REMEDY
        )

    def _keep_console(self) -> None:
        lines = self._machine.console.tail(CONSOLE_KEPT)
        if lines != self._logged:
            self._logged = lines
            self._state.write_console(lines)
