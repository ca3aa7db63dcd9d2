# SPDX-License-Identifier: Apache-2.0
"""The table of methods, and the answers that need no sandbox."""

from __future__ import annotations

from sealpod.agent.parameters import VERSION
from sealpod.agent.sandbox import Sandbox
from sealpod.agent.service import Service
from sealpod.wire.agentapi import HEALTH, METHODS
from sealpod.wire.pb import agent_pb2, health_pb2


def service() -> Service:
    return Service(Sandbox.__new__(Sandbox))


def test_what_is_served_is_of_the_api() -> None:
    assert set(service().methods()) <= set(METHODS)


def test_health_and_details() -> None:
    methods = service().methods()
    health = health_pb2.HealthCheckResponse.FromString(methods[HEALTH, "Check"](b""))
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    version = health_pb2.VersionCheckResponse.FromString(methods[HEALTH, "Version"](b""))
    assert (version.grpc_version, version.agent_version) == ("0.0.1", VERSION)
    details = agent_pb2.GuestDetailsResponse.FromString(
        methods["grpc.AgentService", "GetGuestDetails"](b"")
    ).agent_details
    assert details.init_daemon
    assert list(details.storage_handlers) == ["image_guest_pull"]
