# SPDX-License-Identifier: Apache-2.0
"""The Task service in the orders containerd was seen to call it: ctr run, a pod, exec, stop."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from podkit import PID, Bench, Reader, process_spec

from sealpod.errors import (
    ConflictError,
    DecodeError,
    NotFoundError,
    OperationError,
    SealpodError,
    UsageError,
    VerificationError,
)
from sealpod.wire.taskapi import CREATED, MESSAGES, PAUSED, RUNNING, STOPPED

Scenario = Callable[[Bench], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Scenario], None]:
    def run(scenario: Scenario) -> None:
        async def whole() -> None:
            bench = Bench(tmp_path)
            try:
                async with asyncio.timeout(60):
                    await scenario(bench)
            finally:
                await bench.service.close()

        before = len(os.listdir("/proc/self/fd"))
        asyncio.run(whole())
        assert len(os.listdir("/proc/self/fd")) == before, "a stream was left open"

    return run


def test_ctr_run(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        out = Reader(bench.fifo("out"))
        created = await bench.create("t1", stdout=bench.fifo("out"))
        assert created.pid == PID
        assert (await bench.call("Connect", id="t1")).task_pid == PID
        assert (await bench.call("Connect", id="t1")).shim_pid == os.getpid()
        assert await bench.status("t1") == CREATED
        assert (await bench.call("Start", id="t1")).pid == PID
        waiting = asyncio.create_task(bench.call("Wait", id="t1"))
        assert await bench.status("t1") == RUNNING
        guest = bench.guest.process("t1")
        await guest.write(b"hello\n")
        await guest.exit(7)
        assert (await waiting).exit_status == 7
        assert await out.data() == b"hello\n"
        state = await bench.call("State", id="t1")
        assert (state.status, state.exit_status) == (STOPPED, 7)
        assert state.exited_at.seconds > 0
        deleted = await bench.call("Delete", id="t1")
        assert (deleted.pid, deleted.exit_status) == (PID, 7)
        assert bench.machine is not None
        assert bench.machine.stops == 1
        await bench.call("Shutdown", id="t1")
        assert bench.service.finished.is_set()
        assert bench.events.names() == ["TaskCreate", "TaskStart", "TaskExit", "TaskDelete"]

    play(scenario)


def test_a_pod_of_two_containers(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.run("pod", "sandbox")
        assert bench.guest.named("CreateContainer") == []
        for name in ("one", "two"):
            await bench.run(name, "container")
        with pytest.raises(ConflictError, match="cannot create another sandbox"):
            await bench.create("other", "sandbox")
        await bench.call("Kill", id="one", signal=15)
        assert (await bench.call("Wait", id="one")).exit_status == 143
        await bench.call("Kill", id="one", signal=9, all=True)
        await bench.call("Delete", id="one")
        await bench.call("Shutdown", id="one")
        assert not bench.service.finished.is_set()
        assert len((await bench.call("Pids", id="two")).processes) == 1
        # StopPodSandbox while a container still runs: its end comes before the pod's.
        await bench.call("Kill", id="pod", signal=9)
        assert (await bench.call("Wait", id="pod")).exit_status == 137
        assert bench.events.exits() == [("one", 143), ("two", 137), ("pod", 137)]
        await bench.call("Delete", id="two")
        await bench.call("Delete", id="pod")
        await bench.call("Shutdown", id="pod")
        assert bench.service.finished.is_set()

    play(scenario)


def test_a_pods_own_container_ends_with_the_signal_it_got(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.run("pod", "sandbox")
        await bench.call("Kill", id="pod", signal=28)  # SIGWINCH ends nothing
        assert await bench.status("pod") == RUNNING
        await asyncio.gather(*(bench.call("Kill", id="pod", signal=15) for _ in range(3)))
        assert bench.events.exits() == [("pod", 143)]
        assert bench.machine is not None
        assert bench.machine.stops == 1

    play(scenario)


def test_exec_sync_reaches_the_end_of_both_outputs(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.run("pod", "sandbox")
        await bench.run("one", "container")
        streams = {"stdout": bench.fifo("eo"), "stderr": bench.fifo("ee")}
        out, err = Reader(streams["stdout"]), Reader(streams["stderr"])
        await bench.call("Exec", id="one", exec_id="e1", spec=process_spec("/bin/true"), **streams)
        with pytest.raises(ConflictError):
            await bench.call("Exec", id="one", exec_id="e1", spec=process_spec("/bin/true"), **streams)
        waiting = asyncio.create_task(bench.call("Wait", id="one", exec_id="e1"))
        bench.guest.instant = 3
        await bench.call("Start", id="one", exec_id="e1")
        assert (await waiting).exit_status == 3
        assert (await out.data(), await err.data()) == (b"", b"")
        await bench.call("Kill", id="one", exec_id="e1", signal=9)
        assert (await bench.call("Delete", id="one", exec_id="e1")).exit_status == 3
        with pytest.raises(NotFoundError):
            await bench.call("State", id="one", exec_id="e1")
        assert bench.events.names("one")[2:] == ["TaskExecAdded", "TaskExecStarted", "TaskExit"]

    play(scenario)


def test_an_exec_that_does_not_start_still_ends_its_streams(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.run("one")
        out = Reader(bench.fifo("eo"))
        await bench.call("Exec", id="one", exec_id="e", spec=process_spec("/no"), stdout=bench.fifo("eo"))
        bench.guest.failures["ExecProcess"] = OperationError("no such program")
        with pytest.raises(OperationError, match="no such program"):
            await bench.call("Start", id="one", exec_id="e")
        # Before it is killed or deleted: containerd's client waits for the streams' ends first.
        assert await out.data() == b""
        assert (await bench.call("Wait", id="one", exec_id="e")).exit_status == 255
        await bench.call("Kill", id="one", exec_id="e", signal=9)
        await bench.call("Delete", id="one", exec_id="e")
        assert "TaskExit" not in bench.events.names()

    play(scenario)


def test_output_is_held_back_and_nothing_lost(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        path = bench.fifo("out")
        await bench.run("one", stdout=path)
        data = os.urandom(3 << 20)
        guest = bench.guest.process("one")
        await guest.write(data)
        await bench.guest.arrival("ReadStdout").wait()
        held = len(bench.guest.named("ReadStdout"))
        await bench.call("Kill", id="one", signal=28)
        # The FIFO is full and one chunk waits: no more is asked for.
        assert len(bench.guest.named("ReadStdout")) <= held + 1
        out = Reader(path)
        await guest.exit(0)
        assert await out.data() == data
        assert (await bench.call("Wait", id="one")).exit_status == 0

    play(scenario)


def test_an_end_nobody_reads_the_output_of(
    play: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealpod.shim.process.STALL_SECONDS", 0.05)

    async def scenario(bench: Bench) -> None:
        await bench.run("one", stdout=bench.fifo("out"))
        guest = bench.guest.process("one")
        await guest.write(bytes(1 << 20))
        await guest.exit(5)
        assert (await bench.call("Wait", id="one")).exit_status == 5
        await bench.call("Delete", id="one")

    play(scenario)


def test_a_child_that_keeps_the_output_open_does_not_keep_its_parent(
    play: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealpod.shim.process.STALL_SECONDS", 0.05)

    async def scenario(bench: Bench) -> None:
        await bench.run("one", stdout=bench.fifo("out"))
        bench.guest.process("one").exited.set_result(0)
        assert (await bench.call("Wait", id="one")).exit_status == 0

    play(scenario)


def test_input_ends_after_what_was_written(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        path = bench.fifo("in")
        await bench.run("one", stdin=path)
        guest = bench.guest.process("one")
        writer = os.open(path, os.O_WRONLY)
        try:
            os.write(writer, b"abc")
            await bench.call("CloseIO", id="one", stdin=True)
            await guest.stdin_closed.wait()
        finally:
            os.close(writer)
        assert guest.stdin == b"abc"

    play(scenario)


def test_input_ends_with_its_writers_or_when_there_is_none(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        path = bench.fifo("in")
        await bench.run("pod", "sandbox")
        await bench.run("one", "container", stdin=path)
        await bench.run("two", "container")
        await bench.guest.process("two").stdin_closed.wait()
        guest = bench.guest.process("one")
        assert not guest.stdin_closed.is_set()
        await asyncio.to_thread(Path(path).write_bytes, b"x" * 100_000)
        await guest.stdin_closed.wait()
        assert bytes(guest.stdin) == b"x" * 100_000

    play(scenario)


def test_a_terminal_gets_the_size_asked_for_before_it_started(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.create("one", terminal=True, stdout=bench.fifo("out"))
        await bench.call("ResizePty", id="one", width=100, height=40)
        assert bench.guest.named("TtyWinResize") == []
        await bench.call("Start", id="one")
        await bench.guest.arrival("TtyWinResize").wait()
        resized = bench.guest.named("TtyWinResize")[0]
        assert (resized.column, resized.row) == (100, 40)
        assert bench.guest.named("CreateContainer")[0].OCI.Process.Terminal
        assert "ReadStderr" not in {name for name, _ in bench.guest.calls}

    play(scenario)


def test_pause_and_resume(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.run("one")
        with pytest.raises(VerificationError, match="running"):
            await bench.call("Resume", id="one")
        await bench.call("Pause", id="one")
        assert await bench.status("one") == PAUSED
        await bench.call("Resume", id="one")
        assert await bench.status("one") == RUNNING
        assert bench.events.names()[-2:] == ["TaskPaused", "TaskResumed"]

    play(scenario)


def test_oom_stats_update_and_inspection(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.run("pod", "sandbox")
        await bench.run("one", "container")
        await bench.guest.ooms.put("one")
        await bench.events.until("TaskOOM")
        stats = (await bench.call("Stats", id="one")).stats
        assert stats.type_url.startswith("io.containerd.cgroups.v")
        assert b"\xb9\x60" in stats.value  # 12345
        assert (await bench.call("Stats", id="pod")).stats.type_url == stats.type_url
        resources = MESSAGES.new("Any", value=b'{"memory": {"limit": 1048576}}')
        await bench.call("Update", id="one", resources=resources)
        assert bench.guest.named("UpdateContainer")[0].resources.Memory.Limit == 1 << 20
        with pytest.raises(DecodeError):
            await bench.call("Update", id="one", resources=MESSAGES.new("Any", value=b"[]"))
        shown = await bench.ask("Inspect")
        assert [one["id"] for one in shown["containers"]] == ["pod", "one"]
        assert (await bench.ask("Metrics"))["metrics"] == "sealpod_up 1\n"
        assert (await bench.ask("Console"))["lines"]

    play(scenario)


def test_processors_a_container_may_use_are_told_to_the_machine(play: Callable[[Scenario], None]) -> None:
    def on(cpus: str, mems: str = "") -> Callable[[dict[str, Any]], None]:
        def edit(config: dict[str, Any]) -> None:
            config["linux"]["resources"] = {"cpu": {"cpus": cpus, "mems": mems}}

        return edit

    async def scenario(bench: Bench) -> None:
        await bench.run("pod", "sandbox")
        assert bench.machine is not None
        told = bench.machine.confined
        await bench.run("one", "container", edit=on("1-2", "0"))
        assert told == [("pod", "", ""), ("one", "1-2", "0")]
        for text in (b'{"cpu": {"shares": 2}}', b'{"cpu": {"cpus": "3"}}'):
            await bench.call("Update", id="one", resources=MESSAGES.new("Any", value=text))
        assert told[2:] == [("one", "3", "")]
        with pytest.raises(OperationError, match="no such processor"):
            await bench.create("two", "container", edit=on("99"))
        assert bench.guest.named("CreateContainer")[-1].container_id == "one"
        assert told[3:] == [("two", "", "")]
        await bench.call("Kill", id="one", signal=9)
        await bench.call("Wait", id="one")
        await bench.call("Delete", id="one")
        assert told[4:] == [("one", "", "")]

    play(scenario)


def test_killing_what_never_started(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        out = Reader(bench.fifo("out"))
        await bench.create("one", stdout=bench.fifo("out"))
        await bench.call("Kill", id="one", signal=9)
        assert (await bench.call("Wait", id="one")).exit_status == 137
        with pytest.raises(VerificationError, match="stopped"):
            await bench.call("Start", id="one")
        await bench.call("Delete", id="one")
        assert bench.events.names() == ["TaskCreate", "TaskExit", "TaskDelete"]
        assert await out.data() == b""

    play(scenario)


@pytest.mark.parametrize(
    ("method", "fields", "error"),
    [
        ("State", {"id": "no"}, NotFoundError),
        ("Kill", {"id": "no", "signal": 9}, NotFoundError),
        ("Delete", {"id": "no"}, NotFoundError),
        ("Wait", {"id": "one", "exec_id": "no"}, NotFoundError),
        ("Start", {"id": "one"}, VerificationError),
        ("Delete", {"id": "one"}, VerificationError),
        ("Exec", {"id": "pod", "exec_id": "e", "spec": process_spec("/x")}, UsageError),
        ("Exec", {"id": "one", "exec_id": "e", "spec": MESSAGES.new("Any", value=b"{")}, DecodeError),
        (
            "Exec",
            {"id": "one", "exec_id": "e", "spec": process_spec("/x"), "stdout": "/none"},
            OperationError,
        ),
        (
            "Exec",
            {"id": "one", "exec_id": "e", "spec": process_spec("/x"), "stdout": "binary:///x"},
            UsageError,
        ),
    ],
)
def test_refusals(
    play: Callable[[Scenario], None], method: str, fields: dict[str, Any], error: type[SealpodError]
) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.run("pod", "sandbox")
        await bench.run("one", "container")
        before = bench.events.names()
        with pytest.raises(error):
            await bench.call(method, **fields)
        assert bench.events.names() == before

    play(scenario)


def test_the_request_for_the_pods_machine(play: Callable[[Scenario], None], tmp_path: Path) -> None:
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 192.0.2.1\nsearch example\n")

    def edit(config: dict[str, Any]) -> None:
        config["hostname"] = "web"
        config["linux"]["sysctl"] = {"kernel.shm_rmid_forced": "1"}
        config["mounts"] = [{"destination": "/etc/resolv.conf", "source": str(resolv), "type": "bind"}]

    async def scenario(bench: Bench) -> None:
        options = MESSAGES.new("Options", config_path="/etc/kata/x.toml").encode()
        packed = MESSAGES.new("Any", type_url="runtimeoptions.v1.Options", value=options)
        await bench.create("pod", "sandbox", options=packed, edit=edit)
        asked = bench.requests[0]
        assert asked.config_path == "/etc/kata/x.toml"
        assert asked.netns == "/run/netns/x"
        assert asked.dns == ("nameserver 192.0.2.1", "search example")
        assert asked.hostname == "web"
        await bench.create("one", "container")
        assert bench.guest.named("CreateContainer")[0].OCI.Linux.Sysctl == {"kernel.shm_rmid_forced": "1"}

    play(scenario)


def test_a_pod_without_a_name_has_the_nodes(play: Callable[[Scenario], None]) -> None:
    """kubelet names no pod on the host's network; containerd's ``HOSTNAME`` for it is the node's name."""

    async def scenario(bench: Bench) -> None:
        await bench.create("pod", "sandbox", edit=lambda config: config.update(hostname=""))
        assert bench.requests[0].hostname == socket.gethostname()

    play(scenario)
