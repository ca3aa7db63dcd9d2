# SPDX-License-Identifier: Apache-2.0
"""The agent's configuration file, alone and under the command line; and which calls it lets through."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.agent import configfile, endpoints
from sealpod.agent.endpoints import Endpoints
from sealpod.agent.parameters import Parameters, parse
from sealpod.errors import UsageError
from sealpod.wire.agentapi import AGENT, HEALTH

TEXT = """
aa_kbc_params = "offline_sev_kbc::null"
insecure_registries = ["one:1", "two:2"]
enable_signature_verification = true
log_level = "debug"
some_day = 5

[endpoints]
allowed = ["CreateSandboxRequest", "OfAnotherVersionRequest", "ReadStreamRequest"]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "agent.toml"
    file.write_text(TEXT)
    return file


def test_the_file_alone(path: Path) -> None:
    found = parse(f"quiet agent.config_file={path}")
    assert found == Parameters(
        "offline_sev_kbc::null",
        ("one:1", "two:2"),
        True,
        True,
        Endpoints(found.endpoints.allowed),
        privileged=False,
    )
    refusals = found.endpoints.refusals()
    assert refusals[AGENT, "ExecProcess"] == "ExecProcessRequest is blocked"
    assert not {"CreateSandbox", "ReadStdout", "ReadStderr"} & {method for _, method in refusals}
    assert all(service != HEALTH for service, _ in refusals)


def test_the_command_line_wins(path: Path) -> None:
    line = (
        f"agent.aa_kbc_params=online_sev_kbc::h:1 agent.config_file={path} agent.log=info "
        "agent.enable_signature_verification=false agent.allowed_endpoints=CopyFileRequest"
    )
    assert parse(line) == Parameters(
        "online_sev_kbc::h:1",
        ("one:1", "two:2"),
        endpoints=Endpoints(frozenset({"CopyFileRequest"})),
        privileged=False,
    )


def test_a_file_without_settings(path: Path) -> None:
    path.write_text("")
    assert parse(f"agent.config_file={path}") == Parameters()


@pytest.mark.parametrize(
    "text",
    [
        "no toml",
        "a = [1, 2]",
        "a = 1.5",
        "a = ['x,y']",
        "endpoints = 5",
        "[endpoints]\nallow = []",
        "[endpoints]\nallowed = [1]",
        "[table]\na = 1",
        "x = '" + "y" * configfile.MAX_SIZE + "'",
        "\0",
    ],
)
def test_a_bad_file_is_fatal(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        parse(f"agent.config_file={path}")
    assert caught.value.code == "agent.config-file"


def test_a_missing_file_is_fatal(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        parse(f"agent.config_file={tmp_path / 'none'}")


@given(st.binary(max_size=80))
def test_any_file(data: bytes) -> None:
    with contextlib.suppress(UsageError):
        assert isinstance(configfile.parse(data), dict)


def test_blocked_ones_are_blocked_even_if_allowed() -> None:
    found = parse(
        "agent.allowed_endpoints=ExecProcessRequest,StatsContainerRequest "
        "agent.blocked_endpoints=ExecProcessRequest"
    ).endpoints.refusals()
    assert (AGENT, "ExecProcess") in found
    assert (AGENT, "StatsContainer") not in found


def test_a_list_of_blocked_ones_leaves_the_rest() -> None:
    found = parse("agent.blocked_endpoints=ReadStreamRequest,CopyFileRequest").endpoints.refusals()
    assert {method for _, method in found} == {
        "ReadStdout",
        "ReadStderr",
        "ReadTerminationMessage",
        "CopyFile",
    }


def test_an_empty_list_allows_nothing() -> None:
    refusals = parse("agent.allowed_endpoints=").endpoints.refusals()
    assert len(refusals) == sum(1 for service, _ in endpoints.METHODS if service == AGENT)


def test_blocking_what_does_not_exist_is_an_error_rather_than_nothing() -> None:
    with pytest.raises(UsageError) as caught:
        parse("agent.blocked_endpoints=ExecProcess")
    assert caught.value.code == "agent.parameter"
