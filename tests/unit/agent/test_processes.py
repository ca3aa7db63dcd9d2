# SPDX-License-Identifier: Apache-2.0
"""Processes beside a container's first, terminals, numbers: through the agent's calls, with real crun.

Here crun makes no cgroups, so a test that needs one moves the container into it; limits and out-of-memory
events are left to end-to-end tests.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from sealpod.agent import stats
from sealpod.agent.container import MAX_EXECS, Container
from sealpod.agent.methods_process import ProcessMethods
from sealpod.agent.sandbox import Sandbox
from sealpod.errors import RefusedError
from sealpod.wire.agentapi import MESSAGES
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


def first(guest: Guest, name: str, exec_id: str) -> bytes:
    """What a process writes first, or next."""
    request = agent_pb2.ReadStreamRequest(**ids(name, exec_id), len=1 << 18)
    return bytes(guest.client.call("ReadStdout", request, agent_pb2.ReadStreamResponse()).data)


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


def test_a_process_in_a_guest_with_keys_has_no_privileges_of_its_own() -> None:
    def get(_: str) -> Container:
        pytest.fail("it was run")

    methods = ProcessMethods(cast("Sandbox", SimpleNamespace(privileged=False, get=get)))
    asked = agent_pb2.ExecProcessRequest(process=oci_pb2.Process(Args=["/bin/sh"]))
    asked.process.Capabilities.Effective.append("CAP_SYS_ADMIN")
    with pytest.raises(RefusedError, match="CAP_SYS_ADMIN"):
        methods.table()["ExecProcess"](MESSAGES.decode("ExecProcessRequest", asked.SerializeToString()))


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


def test_sigterm_ends_a_process_beside_as_itself(guest: Guest, running: str) -> None:
    """Only a namespace's first process could not be asked to end."""
    execute(guest, running, "asked", *SHELL, "exec sleep 1000")
    request = agent_pb2.SignalProcessRequest(**ids(running, "asked"), signal=signal.SIGTERM)
    guest.client.call("SignalProcess", request)
    assert wait(guest, running, "asked") == 143
    guest.client.call("SignalProcess", request)  # an ended process is no error


def test_a_signal_to_all_reaches_the_processes_beside(guest: Guest, running: str) -> None:
    trap = "trap 'exit 4' USR1; echo ready; while :; do sleep 0.05; done"
    for exec_id in ("a", "b"):
        execute(guest, running, exec_id, *SHELL, trap)
        assert first(guest, running, exec_id) == b"ready\n"
    request = agent_pb2.SignalProcessRequest(**ids(running, ""), signal=signal.SIGUSR1)
    guest.client.call("SignalProcess", request)
    assert [wait(guest, running, exec_id) for exec_id in ("a", "b")] == [4, 4]
    request.signal = signal.SIGKILL
    guest.client.call("SignalProcess", request)
    assert wait(guest, running, running) == 137


def test_a_terminal_joins_the_outputs_and_has_a_size(guest: Guest, running: str) -> None:
    size = oci_pb2.Box(Height=24, Width=77)
    script = "test -t 0 && echo yes; stty size; echo err >&2; read go; stty size; exit 6"
    execute(guest, running, "tty", *SHELL, script, terminal=True, ConsoleSize=size)
    text = b""
    while b"err" not in text:
        text += first(guest, running, "tty")
    assert text == b"yes\r\n24 77\r\nerr\r\n"
    resize = agent_pb2.TtyWinResizeRequest(**ids(running, "tty"), row=33, column=99)
    guest.client.call("TtyWinResize", resize)
    typed = agent_pb2.WriteStreamRequest(**ids(running, "tty"), data=b"go\n")
    guest.client.call("WriteStdin", typed)
    assert output(guest, running, "tty", "ReadStderr") == b"go\r\n33 99\r\n"
    assert wait(guest, running, "tty") == 6
    assert "stream.closed" in guest.client.refused("WriteStdin", typed).message


def test_a_container_with_a_terminal(guest: Guest) -> None:
    """Its id is as long as an id can be, and with it the path of the socket its terminal comes by."""
    name = "t" * 128
    size = oci_pb2.Box(Height=20, Width=50)
    request = guest.create_request(name, [*SHELL, "read x; stty size"], Terminal=True, ConsoleSize=size)
    guest.client.call("CreateContainer", request)
    guest.client.call("StartContainer", agent_pb2.StartContainerRequest(container_id=name))
    guest.client.call("WriteStdin", agent_pb2.WriteStreamRequest(**ids(name, name), data=b"\n"))
    assert output(guest, name, name) == b"\r\n20 50\r\n"
    assert wait(guest, name, name) == 0
    guest.client.call("RemoveContainer", agent_pb2.RemoveContainerRequest(container_id=name))


def test_interrupting_by_the_terminal(guest: Guest, running: str) -> None:
    execute(guest, running, "tty", *SHELL, "echo ready; exec sleep 1000", terminal=True)
    assert first(guest, running, "tty") == b"ready\r\n"
    guest.client.call("WriteStdin", agent_pb2.WriteStreamRequest(**ids(running, "tty"), data=b"\x03"))
    assert wait(guest, running, "tty") == 128 + signal.SIGINT


def test_pipes_have_no_size(guest: Guest, running: str) -> None:
    resize = agent_pb2.TtyWinResizeRequest(**ids(running, running), row=33, column=99)
    response = guest.client.refused("TtyWinResize", resize)
    assert response.code == 14
    assert "no tty" in response.message


@pytest.mark.parametrize(
    ("exec_id", "args", "code"),
    [
        ("none", ("/no/such/program",), "container.command-not-found"),
        ("noexec", ("/etc/passwd",), "container.not-executable"),
        ("directory", ("/etc",), "container.not-executable"),
        ("empty", (), "container.spec"),
        ("../up", ("/bin/sh",), "container.id"),
    ],
)
def test_what_cannot_run_is_refused(
    guest: Guest, running: str, exec_id: str, args: tuple[str, ...], code: str
) -> None:
    request = agent_pb2.ExecProcessRequest(**ids(running, exec_id), process=oci_pb2.Process(Args=args))
    refusal = guest.client.refused("ExecProcess", request).message
    assert f"[{code}]" in refusal
    assert not args or args[0] in refusal or code == "container.id"
    left = os.listdir(f"/proc/{guest.process.pid}/root{guest.root}/{running}")
    assert not [name for name in left if name.startswith("exec")]


def test_processes_that_are_over_make_room(guest: Guest, running: str) -> None:
    for number in range(MAX_EXECS + 2):
        execute(guest, running, f"n{number}", "/bin/sh", "-c", "")
        wait(guest, running, f"n{number}")


def test_an_id_is_used_once_until_its_status_was_fetched(guest: Guest, running: str) -> None:
    for status in (1, 2):
        execute(guest, running, "twice", *SHELL, f"exit {status}")
        again = agent_pb2.ExecProcessRequest(**ids(running, "twice"), process=oci_pb2.Process(Args=SHELL))
        assert "container.exists" in guest.client.refused("ExecProcess", again).message
        assert wait(guest, running, "twice") == status


def test_output_of_who_stays_does_not_hold_up_a_removal(guest: Guest) -> None:
    guest.client.call("CreateContainer", guest.create_request("held", [*SHELL, "exec sleep 1000"]))
    guest.client.call("StartContainer", agent_pb2.StartContainerRequest(container_id="held"))
    execute(guest, "held", "parent", *SHELL, "sleep 1000 & exit 0")
    assert wait(guest, "held", "parent") == 0
    reading = guest.client.send("ReadStdout", agent_pb2.ReadStreamRequest(**ids("held", "parent"), len=9))
    again = oci_pb2.Process(Args=[*SHELL, "exit 5"])
    guest.client.call("ExecProcess", agent_pb2.ExecProcessRequest(**ids("held", "parent"), process=again))
    assert reading.result(60).message.startswith("read meet eof")  # another has taken its id
    assert wait(guest, "held", "parent") == 5
    guest.client.call("RemoveContainer", agent_pb2.RemoveContainerRequest(container_id="held"))


def test_removing_while_processes_are_started(guest: Guest) -> None:
    descriptors = f"/proc/{guest.process.pid}/fd"
    before = len(os.listdir(descriptors))
    guest.client.call("CreateContainer", guest.create_request("busy", [*SHELL, "exec sleep 1000"]))
    guest.client.call("StartContainer", agent_pb2.StartContainerRequest(container_id="busy"))
    starting = []
    for number in range(8):
        process = oci_pb2.Process(Args=["/bin/sleep", "1000"])
        request = agent_pb2.ExecProcessRequest(**ids("busy", f"p{number}"), process=process)
        starting.append(guest.client.send("ExecProcess", request))
    guest.client.call("RemoveContainer", agent_pb2.RemoveContainerRequest(container_id="busy"))
    for answer in starting:
        answer.result(60)
    execute_refused = agent_pb2.WaitProcessRequest(**ids("busy", "p0"))
    assert "container.unknown" in guest.client.refused("WaitProcess", execute_refused).message
    wait_for(lambda: len(os.listdir(descriptors)) <= before)


def test_pausing_and_what_a_paused_container_does_not_do(guest: Guest) -> None:
    name = f"paused-{uuid.uuid4().hex[:12]}"
    guest.create(name, *SHELL, "trap 'exit 7' USR1; echo ready; while :; do sleep 0.05; done")
    pause = agent_pb2.PauseContainerRequest(container_id=name)
    resume = agent_pb2.ResumeContainerRequest(container_id=name)
    assert "container.state" in guest.client.refused("PauseContainer", pause).message  # not started
    guest.start(name)
    assert first(guest, name, name) == b"ready\n"
    with group_of(guest, name) as group:
        guest.client.call("PauseContainer", pause)
        assert "frozen 1" in (group / "cgroup.events").read_text()
        process = agent_pb2.ExecProcessRequest(**ids(name, "x"), process=oci_pb2.Process(Args=["/bin/sh"]))
        assert "paused" in guest.client.refused("ExecProcess", process).message
        signalled = agent_pb2.SignalProcessRequest(**ids(name, name), signal=signal.SIGUSR1)
        guest.client.call("SignalProcess", signalled)
        guest.client.call("ResumeContainer", resume)
        assert wait(guest, name, name) == 7
        assert "container.state" in guest.client.refused("PauseContainer", pause).message
    guest.remove(name)


def test_a_paused_container_is_killed_and_removed(guest: Guest) -> None:
    name = f"frozen-{uuid.uuid4().hex[:12]}"
    guest.create(name, "/bin/sleep", "1000")
    guest.start(name)
    with group_of(guest, name):
        guest.client.call("PauseContainer", agent_pb2.PauseContainerRequest(container_id=name))
        waiting = guest.client.send("WaitProcess", agent_pb2.WaitProcessRequest(**ids(name, name)))
        guest.remove(name)
        answer = agent_pb2.WaitProcessResponse.FromString(waiting.result(60).payload)
        assert answer.status == 137


@contextlib.contextmanager
def group_of(guest: Guest, name: str) -> Iterator[Path]:
    """The control group the agent looks for, with the container in it; crun itself makes none here."""
    root = Path(f"/proc/{guest.process.pid}/root")
    group = root / "sys/fs/cgroup/sealpod" / name
    group.mkdir(parents=True)
    try:
        pid = (root / str(guest.root).lstrip("/") / name / "pid").read_text()
        (group / "cgroup.procs").write_text(pid)
        yield group
    finally:
        wait_for(lambda: "populated 0" in (group / "cgroup.events").read_text())
        group.rmdir()
        with contextlib.suppress(OSError):
            group.parent.rmdir()


def wait_for(condition: Callable[[], bool]) -> None:
    """Of a thing that tells nobody when it happens."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def test_the_guests_metrics(guest: Guest, running: str) -> None:
    answer = guest.client.call("GetMetrics", agent_pb2.GetMetricsRequest(), agent_pb2.Metrics())
    values = dict(line.split() for line in answer.metrics.splitlines() if not line.startswith("#"))
    assert int(values["sealpod_guest_containers"]) >= 1
    assert int(values["sealpod_guest_processes"]) > 1
    assert int(values["sealpod_guest_memory_total_bytes"]) > 1 << 20
    assert float(values["sealpod_guest_uptime_seconds"]) > 0


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


def test_the_score_of_a_process_beside(guest: Guest, running: str) -> None:
    execute(guest, running, "score", *SHELL, "read go; cat /proc/self/oom_score_adj", OOMScoreAdj=700)
    guest.client.call("WriteStdin", agent_pb2.WriteStreamRequest(**ids(running, "score"), data=b"\n"))
    assert output(guest, running, "score") == b"700\n"
