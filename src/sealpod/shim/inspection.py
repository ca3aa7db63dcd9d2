# SPDX-License-Identifier: Apache-2.0
"""``sealpod.Sandbox`` on the shim's socket: what `sealpod sandbox` shows. Empty requests, answers in JSON."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Final

from sealpod.shim.pod import Pod
from sealpod.wire.pb import agent_pb2

SERVICE: Final = "sealpod.Sandbox"
CONSOLE_LINES: Final = 400

Handler = Callable[[bytes], Awaitable[bytes]]


class Inspection:
    """Questions about the pod that containerd does not ask."""

    def __init__(self, pod: Pod) -> None:
        self._pod = pod

    def table(self) -> dict[tuple[str, str], Handler]:
        """Handlers by service and method."""
        return {
            (SERVICE, "Inspect"): self._inspect,
            (SERVICE, "Console"): self._console,
            (SERVICE, "Metrics"): self._metrics,
        }

    async def _inspect(self, _payload: bytes) -> bytes:
        vm = self._pod.vm
        described: dict[str, object] = dict(vm.describe()) if vm is not None else {}
        described["containers"] = [one.describe() for one in self._pod.containers.values()]
        return json.dumps(described).encode()

    async def _console(self, _payload: bytes) -> bytes:
        vm = self._pod.vm
        return json.dumps({"lines": list(vm.console(CONSOLE_LINES)) if vm is not None else []}).encode()

    async def _metrics(self, _payload: bytes) -> bytes:
        answer = await self._pod.call("GetMetrics", agent_pb2.GetMetricsRequest())
        return json.dumps({"metrics": agent_pb2.Metrics.FromString(answer).metrics}).encode()
