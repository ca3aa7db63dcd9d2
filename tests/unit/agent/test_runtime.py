# SPDX-License-Identifier: Apache-2.0
"""Reading crun's log, and the table of methods."""

from __future__ import annotations

from pathlib import Path

from sealpod.agent.runtime import failure, read_log
from sealpod.agent.sandbox import Sandbox
from sealpod.agent.service import VERSION, Service
from sealpod.errors import NotFoundError, OperationError
from sealpod.wire.agentapi import HEALTH, METHODS
from sealpod.wire.pb import agent_pb2, health_pb2


def service() -> Service:
    return Service(Sandbox.__new__(Sandbox))


def test_the_last_message_counts(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text('{"msg":"first","level":"error"}\n{"msg":"last"}\nnot json\n[1]\n{"msg":5}\n')
    assert read_log(str(log)) == "last"


def test_no_log_no_message(tmp_path: Path) -> None:
    assert read_log(str(tmp_path / "none")) == ""
    (tmp_path / "noise").write_bytes(bytes(range(256)) * 1000)
    assert read_log(str(tmp_path / "noise")) == ""


def test_a_missing_program_has_its_own_code() -> None:
    missing = failure("create", "executable file `x` not found in $PATH: No such file or directory")
    assert (type(missing), missing.code) == (NotFoundError, "container.command-not-found")
    other = failure("start", "something")
    assert (type(other), other.code) == (OperationError, "container.start")
    assert other.message == "cannot start the container: something"


def test_every_method_of_the_api_is_served() -> None:
    assert set(service().methods()) == set(METHODS)


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
