# SPDX-License-Identifier: Apache-2.0
"""The pod's methods of ``grpc.AgentService``: sandbox, network, files, clock, creating containers."""

from __future__ import annotations

from collections.abc import Callable

from sealpod.agent import network
from sealpod.agent.merge import IMAGE_GUEST_PULL
from sealpod.agent.parameters import VERSION
from sealpod.agent.sandbox import Sandbox
from sealpod.agent.storage import DRIVERS
from sealpod.errors import UsageError
from sealpod.wire.agentapi import MESSAGES
from sealpod.wire.message import Message


class PodMethods:
    """Requests in, calls on the sandbox and on the guest's network and clock, answers out."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def table(self) -> dict[str, Callable[[Message], Message | None]]:
        """Functions by the method's name."""
        return {
            "CreateSandbox": self._create_sandbox,
            "DestroySandbox": self._destroy_sandbox,
            "CopyFile": self._copy_file,
            "CreateContainer": self._create_container,
            "UpdateInterface": _update_interface,
            "UpdateRoutes": _update_routes,
            "ListInterfaces": _list_interfaces,
            "ListRoutes": _list_routes,
            "AddARPNeighbors": _add_neighbours,
            "GetGuestDetails": _get_guest_details,
            "OnlineCPUMem": _online_cpu_mem,
            "ReseedRandomDev": _reseed_random_dev,
            "SetGuestDateTime": _set_guest_date_time,
        }

    def _create_sandbox(self, request: Message) -> None:
        if request.guest_hook_path:
            raise UsageError("this guest's pod has no hooks", code="sandbox.unsupported")
        for module in request.kernel_modules:
            from sealpod.agent import modules

            modules.load(module.name, " ".join(module.parameters))
        self._sandbox.configure(request)

    def _destroy_sandbox(self, request: Message) -> None:
        self._sandbox.destroy()

    def _copy_file(self, request: Message) -> None:
        self._sandbox.copied().copy(request)

    def _create_container(self, request: Message) -> None:
        self._sandbox.create(request)


def _update_interface(request: Message) -> Message:
    network.update_interface(request.interface)
    interface: Message = request.interface
    return interface


def _update_routes(request: Message) -> Message:
    network.update_routes(list(request.routes.Routes))
    return _list_routes(request)


def _list_routes(_: Message) -> Message:
    from sealpod.agent import netlist

    return MESSAGES.new("Routes", Routes=netlist.routes())


def _list_interfaces(_: Message) -> Message:
    from sealpod.agent import netlist

    return MESSAGES.new("Interfaces", Interfaces=netlist.interfaces())


def _add_neighbours(request: Message) -> None:
    network.add_neighbours(request.neighbors.ARPNeighbors)


def _online_cpu_mem(_: Message) -> None:
    """Nothing can be plugged into this guest: its processors and memory are what was measured."""


def _reseed_random_dev(request: Message) -> None:
    from sealpod.agent import entropy

    entropy.reseed(request.data)


def _get_guest_details(_: Message) -> Message:
    details = MESSAGES.new(
        "AgentDetails",
        version=VERSION,
        init_daemon=True,
        storage_handlers=[IMAGE_GUEST_PULL, *DRIVERS],
        supports_seccomp=True,
    )
    return MESSAGES.new("GuestDetailsResponse", agent_details=details)


def _set_guest_date_time(request: Message) -> None:
    from sealpod.agent import clock

    clock.set_time(request.Sec, request.Usec)
