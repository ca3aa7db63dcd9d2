# SPDX-License-Identifier: Apache-2.0
"""What a runtime asks of a pod's machine, and what it gets: the port between the shim and the sandbox."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sealpod.errors import SealpodError
    from sealpod.sandbox.agent import AgentClient
    from sealpod.sandbox.podsettings import PodSettings


@dataclass(frozen=True, slots=True)
class PodRequest:
    """What a pod's machine is asked to be."""

    id: str
    namespace: str
    """containerd's."""
    runtime: str
    """``kata``, ``kata-qemu`` or ``kata-qemu-sev``."""
    config_path: str
    """Empty: looked up, else the runtime's built-in configuration."""
    annotations: Mapping[str, str]
    netns: str
    """Path of the pod's network namespace; empty for QEMU's user network."""
    hostname: str
    dns: tuple[str, ...]
    """Lines of resolv.conf."""
    socket: str
    """The shim's address."""
    bundle: str
    cgroups_path: str = ""
    """``linux.cgroupsPath`` of the pod's own container; empty: its processes stay where containerd's are."""


class PodVm(Protocol):
    """A running pod's machine."""

    agent: AgentClient
    settings: PodSettings

    @property
    def pid(self) -> int:
        """QEMU's process id."""

    def confine(self, container_id: str, cpus: str, mems: str) -> None:
        """Processors and memory nodes a container may use, as lists; empty: all, or it is gone."""

    async def wait(self) -> SealpodError:
        """Return why the machine is gone, when it is."""

    async def stop(self, seconds: float = 5.0) -> None:
        """End the machine and remove everything of it. Idempotent."""

    def console(self, lines: int) -> tuple[str, ...]:
        """The guest's last lines."""

    def describe(self) -> dict[str, object]:
        """What is known of it, for JSON."""


StartPod = Callable[[PodRequest], Awaitable[PodVm]]
