# SPDX-License-Identifier: Apache-2.0
"""Boot the virtual machine of one pod: configuration, network, launch, attestation, a prepared guest.

Everything that is made is undone in the opposite order, whether the pod is stopped, its start fails or its
start is cancelled. An error says in which phase it happened and what the guest said last.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from sealpod.errors import ConflictError, SealpodError
from sealpod.guestimage.cache import cache_directory
from sealpod.qemu import vsock
from sealpod.qemu.arguments import Nic
from sealpod.qemu.machine import Machine
from sealpod.qemu.vcpu import vcpu_threads
from sealpod.sandbox import guestnetwork, netns
from sealpod.sandbox.cleanup import clean_up
from sealpod.sandbox.diagnosis import explained
from sealpod.sandbox.finish import to_its_end
from sealpod.sandbox.host import Host, HostOptions, open_host
from sealpod.sandbox.launch import Guest, launch_guest
from sealpod.sandbox.network import NAMESERVER
from sealpod.sandbox.podcgroup import PodCgroup, enter_pod_cgroup
from sealpod.sandbox.podport import PodRequest, PodVm, StartPod
from sealpod.sandbox.podsettings import PodSettings, pod_settings
from sealpod.sandbox.runningpod import RunningPod
from sealpod.sandbox.spec import PodSpec
from sealpod.sandbox.state import SandboxState, is_alive, process_record
from sealpod.sandbox.timeline import Observation, Timeline
from sealpod.wire.pb import agent_pb2

__all__ = ["PodRequest", "PodVm", "StartPod", "clean_up", "start_pod"]

PLATFORM_STATE: Final = "SEALPOD_PLATFORM_STATE"
"""Environment: where the software platform keeps its keys, instead of the usual place."""
SHM: Final = "/run/kata-containers/sandbox/shm"
SHM_OPTIONS: Final = ("noexec", "nosuid", "nodev", "mode=1777", "size=67108864")
POD_NAME: Final = "io.kubernetes.cri.sandbox-name"
POD_NAMESPACE: Final = "io.kubernetes.cri.sandbox-namespace"

_logger = logging.getLogger(__name__)


async def start_pod(request: PodRequest) -> PodVm:
    """A booted and attested machine whose agent is ready for containers.

    Raises SealpodError; after that, and after a cancellation, nothing of it is left.
    """
    starting = _Starting(request)
    try:
        return await starting.run()
    except BaseException as error:
        killed = starting.cgroup.killed_for_memory() if starting.cgroup is not None else None
        await to_its_end(starting.scope.aclose())
        if isinstance(error, Exception):
            raise explained(killed or error, starting.seen.timeline.current, starting.seen.console) from error
        raise


class _Starting:
    """One start, with what it has to undo so far."""

    def __init__(self, request: PodRequest) -> None:
        self.request = request
        self.scope = contextlib.AsyncExitStack()
        self.seen = Observation(Timeline())
        self.state = SandboxState(request.id)
        self.cgroup: PodCgroup | None = None
        annotations = request.annotations
        self.processes = {"shim": process_record(os.getpid())}
        self.record: dict[str, object] = {
            "id": request.id,
            "namespace": request.namespace,
            "pod": f"{annotations.get(POD_NAMESPACE, '')}/{annotations.get(POD_NAME, '')}".strip("/"),
            "runtime": request.runtime,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "socket": request.socket,
            "bundle": request.bundle,
            "netns": request.netns,
            "interfaces": [],
            "processes": self.processes,
        }

    async def run(self) -> RunningPod:
        phase = self.seen.timeline.phase
        with phase("settings"):
            # A namespace that is ours has the host's interfaces, which no guest may take.
            user_network = not self.request.netns or netns.is_ours(self.request.netns)
            settings = await self._settings(user_network)
            self._claim_directory()
        with phase("cgroup"):
            settings = await self._enter_cgroup(settings)
        with phase("network"):
            network = None if user_network else await self._attach(self.request.netns)
        with phase("host"):
            host = await self._open_host(settings)
        spec = _with_network(settings.spec(), network)
        if self.cgroup is not None:
            spec = replace(spec, cgroup=self.cgroup.qemu_directory)
        name = f"sandbox-{self.request.id[:40]}"
        guest = await self.scope.enter_async_context(
            launch_guest(host, spec, self.seen, name=name, started=self._note_machine)
        )
        with phase("interfaces"):
            if network is None:
                await guest.agent.configure_network()
            else:
                await guestnetwork.configure(guest.agent, network)
        with phase("sandbox"):
            await self._prepare(guest, user_network)
        self._note_launch()
        return RunningPod(settings, guest, self.state, self.record, self.seen, self.scope, self.cgroup)

    async def _settings(self, user_network: bool) -> PodSettings:
        request = self.request
        settings = await asyncio.to_thread(
            pod_settings,
            request.runtime,
            request.config_path,
            request.annotations,
            user_network=user_network,
        )
        for warning in settings.warnings:
            _logger.warning("%s: %s", settings.config or "built-in configuration", warning)
        self.record |= {
            "config": settings.config,
            "memory": settings.memory,
            "cpus": settings.cpus,
            "kbc": settings.kata.mode,
        }
        return settings

    def _claim_directory(self) -> None:
        try:
            self.state.create()
        except ConflictError:
            processes = self.state.read().get("processes")
            if isinstance(processes, dict) and is_alive(processes.get("shim")):
                raise
            # What a shim that was killed left under the same id.
            clean_up(self.request.id)
            self.state.create()
        self.scope.callback(self.state.remove)
        self.state.write(self.record)

    async def _enter_cgroup(self, settings: PodSettings) -> PodSettings:
        """Everything that is started from here on is in the pod's groups."""

        def note(group: PodCgroup) -> None:
            # Recorded before they are made, for whoever cleans up after us.
            self.record["cgroups"] = group.record()
            self.state.write(self.record)

        only, request = settings.kata.sandbox_cgroup_only, self.request
        self.cgroup, found = await enter_pod_cgroup(
            request.cgroups_path, request.id, only=only, scope=self.scope, note=note
        )
        if self.cgroup is None:
            self.record.pop("cgroups", None)
        for warning in found:
            _logger.warning("%s", warning)
        return replace(settings, warnings=(*settings.warnings, *found))

    async def _attach(self, path: str) -> netns.PodNetwork:
        network = await netns.read_network(path)
        pairs = [(interface.name, interface.tap) for interface in network.interfaces]
        # Recorded before they are made, for whoever cleans up after us.
        self.record["interfaces"] = [{"name": name, "tap": tap} for name, tap in pairs]
        self.state.write(self.record)
        self.scope.push_async_callback(netns.detach, path, pairs)
        await netns.attach(network)
        return network

    async def _open_host(self, settings: PodSettings) -> Host:
        options = HostOptions(
            cache=cache_directory(),
            platform="auto" if settings.kata.confidential_guest else "none",
            platform_state=os.environ.get(PLATFORM_STATE, ""),
            qemu=settings.kata.path,
            cert_chain=settings.kata.cert_chain,
        )
        host = await self.scope.enter_async_context(open_host(options, lambda note: _logger.info("%s", note)))
        if pid := getattr(host.platform, "pid", 0):
            self.processes["platform"] = process_record(pid)
        self.record |= {
            "platform": host.platform.kind if host.platform is not None else "none",
            "accelerator": host.accelerator,
        }
        return host

    async def _note_machine(self, machine: Machine) -> None:
        self.processes["qemu"] = process_record(machine.pid)
        self.state.write(self.record)
        if self.cgroup is not None:
            self.cgroup.place(await vcpu_threads(machine) if self.cgroup.plan.moves_threads else ())

    def _note_launch(self) -> None:
        launched = self.seen.record
        if launched is not None:
            self.record |= {
                "launchDigest": launched.components.digest,
                "launchId": self.seen.launch_id,
                # For `sealpod measure explain`.
                "measured": json.loads(launched.components.to_json()),
            }
        self.state.write(self.record)

    async def _prepare(self, guest: Guest, user_network: bool) -> None:
        request = self.request
        dns = list(request.dns)
        if user_network:
            dns = [f"nameserver {NAMESERVER}", *(line for line in dns if not line.startswith("nameserver"))]
        shm = agent_pb2.Storage(
            driver="ephemeral", source="shm", fstype="tmpfs", options=SHM_OPTIONS, mount_point=SHM
        )
        await guest.agent.call(
            "CreateSandbox",
            agent_pb2.CreateSandboxRequest(
                sandbox_id=request.id, hostname=request.hostname, dns=dns, storages=[shm]
            ),
        )
        # The guest has read a clock of whole seconds. A pod owner may have blocked the call.
        now = time.time_ns()
        with contextlib.suppress(SealpodError):
            await guest.agent.call(
                "SetGuestDateTime",
                agent_pb2.SetGuestDateTimeRequest(Sec=now // 10**9, Usec=now % 10**9 // 1000),
            )


def _with_network(spec: PodSpec, network: netns.PodNetwork | None) -> PodSpec:
    spec = replace(spec, vsock=vsock.available())
    if network is None:
        return spec
    nics = tuple(Nic("tap", one.tap, one.mac) for one in network.interfaces)
    return replace(spec, nics=nics, netns=network.path)
