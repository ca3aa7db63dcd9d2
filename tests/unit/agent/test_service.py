# SPDX-License-Identifier: Apache-2.0
"""The table of methods, and the answers that need no sandbox."""

from __future__ import annotations

from sealpod.agent.parameters import VERSION
from sealpod.agent.sandbox import Sandbox
from sealpod.agent.service import Service
from sealpod.wire.agentapi import AGENT, HEALTH, METHODS
from sealpod.wire.pb import agent_pb2, health_pb2


def service() -> Service:
    return Service(Sandbox.__new__(Sandbox))


def test_what_is_not_served() -> None:
    missing = {name for _, name in set(METHODS) - set(service().methods())}
    assert missing == {
        "GetIPTables",
        "SetIPTables",
        "MemHotplugByProbe",
        "AddSwap",
        "GetVolumeStats",
        "ResizeVolume",
    }
    assert set(service().methods()) < set(METHODS)


def test_nothing_can_be_plugged_in_which_is_no_error() -> None:
    assert service().methods()[AGENT, "OnlineCPUMem"](b"") == b""


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
    assert list(details.storage_handlers) == ["image_guest_pull", "ephemeral", "local", "bind"]
