# SPDX-License-Identifier: Apache-2.0
"""The agent's methods: messages in, calls on the sandbox, messages out.

Kata's ``grpc.AgentService`` and ``grpc.Health`` as far as one attested pod needs them (``agent.proto`` says
which); every other method is answered as unimplemented by the server.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from sealpod.agent import network
from sealpod.agent.container import Container
from sealpod.agent.sandbox import IMAGE_GUEST_PULL, Sandbox
from sealpod.agent.stdio import STDERR, STDOUT
from sealpod.errors import NotFoundError, UsageError
from sealpod.wire.agentapi import API_VERSION, MESSAGES, METHODS, SERVING
from sealpod.wire.message import Message

VERSION: Final = "sealpod-agent 0.1.0"
SIGNALS: Final = 64
"""Highest signal number of Linux on x86-64."""

Method = Callable[[Message], "Message | None"]


class Service:
    """One object per guest."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def methods(self) -> dict[tuple[str, str], Callable[[bytes], bytes]]:
        """Handlers by service and method, from the table of the API: each name here has a function below."""
        return {key: self._handler(key[1], *types) for key, types in METHODS.items()}

    def _handler(self, name: str, request_type: str, response_type: str) -> Callable[[bytes], bytes]:
        method: Method = getattr(self, _snake(name))

        def handle(payload: bytes) -> bytes:
            answer = method(MESSAGES.decode(request_type, payload))
            return (answer or MESSAGES.new(response_type)).encode()

        return handle

    # grpc.Health

    def check(self, request: Message) -> Message:
        return MESSAGES.new("HealthCheckResponse", status=SERVING)

    def version(self, request: Message) -> Message:
        return MESSAGES.new("VersionCheckResponse", grpc_version=API_VERSION, agent_version=VERSION)

    # grpc.AgentService: the pod

    def create_sandbox(self, request: Message) -> None:
        if request.storages or request.kernel_modules or request.guest_hook_path or request.sandbox_pidns:
            raise UsageError(
                "this guest's pod has no shared storages, modules, hooks or pid namespace",
                code="sandbox.unsupported",
            )
        self._sandbox.configure(request.hostname, list(request.dns))

    def destroy_sandbox(self, request: Message) -> None:
        """Nothing to take apart: what follows the answer is the end of the machine."""

    def update_interface(self, request: Message) -> Message:
        network.update_interface(request.interface)
        interface: Message = request.interface
        return interface

    def update_routes(self, request: Message) -> Message:
        network.update_routes(list(request.routes.Routes))
        routes: Message = request.routes
        return routes

    def get_guest_details(self, request: Message) -> Message:
        details = MESSAGES.new(
            "AgentDetails",
            version=VERSION,
            init_daemon=True,
            storage_handlers=[IMAGE_GUEST_PULL],
            supports_seccomp=True,
        )
        return MESSAGES.new("GuestDetailsResponse", agent_details=details)

    def set_guest_date_time(self, request: Message) -> None:
        if not 0 <= request.Usec < 1_000_000 or request.Sec < 0:
            raise UsageError("this is no point in time", code="sandbox.time")
        time.clock_settime_ns(time.CLOCK_REALTIME, request.Sec * 1_000_000_000 + request.Usec * 1000)

    # grpc.AgentService: containers

    def create_container(self, request: Message) -> None:
        self._sandbox.create(request)

    def start_container(self, request: Message) -> None:
        self._sandbox.get(request.container_id).start()

    def remove_container(self, request: Message) -> None:
        self._sandbox.remove(request.container_id, float(request.timeout) or None)

    def signal_process(self, request: Message) -> None:
        if not 0 <= request.signal <= SIGNALS:
            raise UsageError(f"{request.signal} is no signal", code="container.signal")
        if request.exec_id:
            self._process(request).kill(request.signal)
        else:
            self._sandbox.get(request.container_id).kill_all(request.signal)

    def wait_process(self, request: Message) -> Message:
        return MESSAGES.new("WaitProcessResponse", status=self._process(request).wait())

    # grpc.AgentService: streams

    def write_stdin(self, request: Message) -> Message:
        return MESSAGES.new("WriteStreamResponse", len=self._process(request).stdio.write(request.data))

    def read_stdout(self, request: Message) -> Message:
        data = self._process(request).stdio.read(STDOUT, request.len)
        return MESSAGES.new("ReadStreamResponse", data=data)

    def read_stderr(self, request: Message) -> Message:
        data = self._process(request).stdio.read(STDERR, request.len)
        return MESSAGES.new("ReadStreamResponse", data=data)

    def close_stdin(self, request: Message) -> None:
        self._process(request).stdio.close_stdin()

    def _process(self, request: Message) -> Container:
        """The container whose first process is meant; there are no others, ExecProcess is not offered."""
        if request.exec_id not in ("", request.container_id):
            raise NotFoundError(f"no process {request.exec_id!r}", code="container.unknown")
        return self._sandbox.get(request.container_id)


def _snake(name: str) -> str:
    """``ReadStdout`` -> ``read_stdout``."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
