# SPDX-License-Identifier: Apache-2.0
"""The agent's services: which function answers which method, and how messages become bytes.

Kata's ``grpc.Health`` is here; ``grpc.AgentService`` is put together from the tables of
:mod:`~sealpod.agent.methods_pod` and :mod:`~sealpod.agent.methods_process`. A method of the API that
stands in no table is answered as unimplemented by the server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sealpod.agent.methods_pod import PodMethods
from sealpod.agent.methods_process import ProcessMethods
from sealpod.agent.parameters import VERSION
from sealpod.agent.sandbox import Sandbox
from sealpod.wire.agentapi import AGENT, API_VERSION, HEALTH, MESSAGES, METHODS, SERVING
from sealpod.wire.message import Message

Method = Callable[[Message], "Message | None"]
Handler = Callable[[bytes], bytes]


class Service:
    """One object per guest."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._methods: Final[dict[tuple[str, str], Method]] = {
            (HEALTH, "Check"): _check,
            (HEALTH, "Version"): _version,
        }
        for table in (PodMethods(sandbox).table(), ProcessMethods(sandbox).table()):
            self._methods.update({(AGENT, name): method for name, method in table.items()})

    def methods(self) -> dict[tuple[str, str], Handler]:
        """Handlers by service and method."""
        return {key: _handler(method, *METHODS[key]) for key, method in self._methods.items()}


def _handler(method: Method, request_type: str, response_type: str) -> Handler:
    def handle(payload: bytes) -> bytes:
        answer = method(MESSAGES.decode(request_type, payload))
        return (answer or MESSAGES.new(response_type)).encode()

    return handle


def _check(_: Message) -> Message:
    return MESSAGES.new("HealthCheckResponse", status=SERVING)


def _version(_: Message) -> Message:
    return MESSAGES.new("VersionCheckResponse", grpc_version=API_VERSION, agent_version=VERSION)
