# SPDX-License-Identifier: Apache-2.0
"""Processes beside a container's first, terminals, numbers: through the agent's calls, with real crun.

Freezing, limits and out-of-memory events need the guest's own cgroups (end-to-end tests).
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sealpod.agent import oom, stats
from sealpod.agent.container import MAX_EXECS
from sealpod.wire.pb import agent_pb2, oci_pb2

if TYPE_CHECKING:
    from conftest import Guest  # type: ignore[import-not-found]

SHELL = ("/bin/sh", "-c")


def ids(name: str, exec_id: str) -> dict[str, str]:
    return {"container_id": name, "exec_id": exec_id}


def output(guest: Guest, name: str, exec_id: str, method: str = "ReadStdout") -> bytes:
    """Everything a process writes, to its end."""
    pieces = []
    while True:
        request = agent_pb2.ReadStreamRequest(**ids(name, exec_id), len=1 << 18)
        response = guest.client.send(method, request).result(60)
        if response.code:
            assert response.message.startswith("read meet eof"), response.message
            return b"".join(pieces)
        pieces.append(bytes(agent_pb2.ReadStreamResponse.FromString(response.payload).data))


def execute(
    guest: Guest, name: str, exec_id: str, *args: str, terminal: bool = False, **fields: object
) -> None:
    process = oci_pb2.Process(Args=args, Terminal=terminal, **fields)  # type: ignore[arg-type]
    guest.client.call("ExecProcess", agent_pb2.ExecProcessRequest(**ids(name, exec_id), process=process))


def wait(guest: Guest, name: str, exec_id: str) -> int:
    answer = agent_pb2.WaitProcessResponse()
    guest.client.call("WaitProcess", agent_pb2.WaitProcessRequest(**ids(name, exec_id)), answer)
    return int(answer.status)


@pytest.fixture
def running(guest: Guest, request: pytest.FixtureRequest) -> Iterator[str]:
    """A container that waits."""
    name = re.sub("[^a-z0-9]+", "-", request.node.name)[-60:].strip("-")
    guest.client.call("CreateContainer", guest.create_request(name, [*SHELL, "exec sleep 1000"]))
    guest.client.call("StartContainer", agent_pb2.StartContainerRequest(container_id=name))
    yield name
    guest.client.call("RemoveContainer", agent_pb2.RemoveContainerRequest(container_id=name))


def test_a_process_has_its_own_streams_and_status(guest: Guest, running: str) -> None:
    execute(guest, running, "one", *SHELL, 'echo "$FROM $MORE"; echo bad >&2; exit 9', Env=["MORE=asked"])
    assert output(guest, running, "one") == b"image asked\n"
    assert output(guest, running, "one", "ReadStderr") == b"bad\n"
    assert wait(guest, running, "one") == 9


def test_what_was_written_can_be_read_after_the_end(guest: Guest, running: str) -> None:
    execute(guest, running, "late", *SHELL, "echo still here")
    assert wait(guest, running, "late") == 0
    assert output(guest, running, "late") == b"still here\n"


def test_several_run_at_once_and_are_told_apart(guest: Guest, running: str) -> None:
    for number in range(4):
        execute(guest, running, f"p{number}", *SHELL, f"read x; echo {number} $x; exit {number}")
    for number in reversed(range(4)):
        request = agent_pb2.WriteStreamRequest(**ids(running, f"p{number}"), data=b"in\n")
        guest.client.call("WriteStdin", request)
        assert wait(guest, running, f"p{number}") == number
        assert output(guest, running, f"p{number}") == f"{number} in\n".encode()


def test_a_signal_reaches_the_one_process(guest: Guest, running: str) -> None:
    execute(guest, running, "victim", *SHELL, "exec sleep 1000")
    request = agent_pb2.SignalProcessRequest(**ids(running, "victim"), signal=signal.SIGKILL)
    guest.client.call("SignalProcess", request)
    assert wait(guest, running, "victim") == 137
    execute(guest, running, "next", *SHELL, "exit 0")
    assert wait(guest, running, "next") == 0


def test_a_terminal_joins_the_outputs_and_has_a_size(guest: Guest, running: str) -> None:
    execute(
        guest,
        running,
        "tty",
        *SHELL,
        "test -t 0 && echo yes; echo err >&2; read go; stty size",
        terminal=True,
    )
    resize = agent_pb2.TtyWinResizeRequest(**ids(running, "tty"), row=33, column=99)
    guest.client.call("TtyWinResize", resize)
    guest.client.call("WriteStdin", agent_pb2.WriteStreamRequest(**ids(running, "tty"), data=b"go\n"))
    text = output(guest, running, "tty").decode()
    assert "yes" in text
    assert "err" in text
    wait(guest, running, "tty")


def test_pipes_have_no_size(guest: Guest, running: str) -> None:
    resize = agent_pb2.TtyWinResizeRequest(**ids(running, running), row=33, column=99)
    response = guest.client.refused("TtyWinResize", resize)
    assert response.code == 14
    assert "no tty" in response.message


@pytest.mark.parametrize(
    ("exec_id", "args", "code"),
    [
        ("none", ("/no/such/program",), "container.command-not-found"),
        ("empty", (), "container.spec"),
        ("../up", ("/bin/sh",), "container.id"),
    ],
)
def test_what_cannot_run_is_refused(
    guest: Guest, running: str, exec_id: str, args: tuple[str, ...], code: str
) -> None:
    request = agent_pb2.ExecProcessRequest(**ids(running, exec_id), process=oci_pb2.Process(Args=args))
    assert code in guest.client.refused("ExecProcess", request).message


def test_processes_that_are_over_make_room(guest: Guest, running: str) -> None:
    for number in range(MAX_EXECS + 2):
        execute(guest, running, f"n{number}", "/bin/sh", "-c", "")
        wait(guest, running, f"n{number}")


def test_an_id_is_used_once(guest: Guest, running: str) -> None:
    execute(guest, running, "twice", *SHELL, "exit 0")
    again = agent_pb2.ExecProcessRequest(**ids(running, "twice"), process=oci_pb2.Process(Args=SHELL))
    assert "container.exists" in guest.client.refused("ExecProcess", again).message


def test_nothing_runs_in_a_container_that_has_ended(guest: Guest) -> None:
    guest.client.call("CreateContainer", guest.create_request("over", [*SHELL, "exit 0"]))
    guest.client.call("StartContainer", agent_pb2.StartContainerRequest(container_id="over"))
    wait(guest, "over", "over")
    request = agent_pb2.ExecProcessRequest(**ids("over", "x"), process=oci_pb2.Process(Args=["/bin/sh"]))
    assert "container.state" in guest.client.refused("ExecProcess", request).message
    guest.client.call("RemoveContainer", agent_pb2.RemoveContainerRequest(container_id="over"))


def test_removal_ends_what_runs_beside(guest: Guest) -> None:
    guest.client.call("CreateContainer", guest.create_request("gone", [*SHELL, "exec sleep 1000"]))
    guest.client.call("StartContainer", agent_pb2.StartContainerRequest(container_id="gone"))
    execute(guest, "gone", "beside", *SHELL, "exec sleep 1000")
    guest.client.call("RemoveContainer", agent_pb2.RemoveContainerRequest(container_id="gone"))
    request = agent_pb2.WaitProcessRequest(**ids("gone", "beside"))
    assert "container.unknown" in guest.client.refused("WaitProcess", request).message


def test_numbers_are_read_from_the_cgroup(tmp_path: Path) -> None:
    place = tmp_path / "groups" / "sealpod" / "c1"
    place.mkdir(parents=True)
    for name, text in (
        ("cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 7\n"),
        ("memory.current", "4096\n"),
        ("memory.max", "max\n"),
        ("memory.stat", "anon 100\ninactive_file 7\n"),
        ("memory.events", "low 0\nmax 6\noom_kill 1\n"),
        ("pids.current", "3\n"),
        ("pids.max", "max\n"),
    ):
        (place / name).write_text(text)
    link = tmp_path / "links" / "eth0" / "statistics"
    link.mkdir(parents=True)
    (link / "rx_bytes").write_text("11\n")
    answer = stats.read("c1", cgroups=str(tmp_path / "groups"), links=str(tmp_path / "links"))
    read = agent_pb2.StatsContainerResponse.FromString(answer.encode())
    group = read.cgroup_stats
    assert group.cpu_stats.cpu_usage.total_usage == 5000
    assert group.cpu_stats.throttling_data.periods == 7
    assert (group.memory_stats.usage.usage, group.memory_stats.usage.failcnt) == (4096, 6)
    assert {one.key: one.value for one in group.memory_stats.stats}["inactive_file"] == 7
    assert (group.pids_stats.current, group.pids_stats.limit) == (3, 0)
    assert [(one.name, one.rx_bytes) for one in read.network_stats] == [("eth0", 11)]


def test_a_cgroup_that_cannot_be_watched_is_left_alone() -> None:
    oom.Oom().watch("c1", "/no/such/cgroup")
