# SPDX-License-Identifier: Apache-2.0
"""What comes at the wrong moment: a kill during boot, a machine that dies, two callers at once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from podkit import PID, Bench, Reader, process_spec

from sealpod.errors import (
    DeadlineError,
    InterruptError,
    LaunchError,
    NotFoundError,
    OperationError,
    UnavailableError,
    UsageError,
    VerificationError,
)
from sealpod.wire.taskapi import CREATED, STOPPED, UNKNOWN

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


@pytest.mark.parametrize("method", ["Kill", "Delete", "Shutdown"])
@pytest.mark.parametrize("kind", ["sandbox", ""])
def test_taken_back_during_boot(play: Callable[[Scenario], None], method: str, kind: str) -> None:
    async def scenario(bench: Bench) -> None:
        bench.boot_gate = asyncio.Event()
        creating = asyncio.create_task(bench.create("pod", kind))
        await bench.booting.wait()
        assert await bench.status("pod") == (UNKNOWN if kind else CREATED)
        with pytest.raises(VerificationError, match="still being made"):
            await bench.call("Start", id="pod")
        await bench.call(method, id="pod", **({"signal": 9} if method == "Kill" else {}))
        with pytest.raises(InterruptError, match="taken back"):
            await creating
        assert bench.boot_cancelled
        assert bench.events.seen == []
        # After a Kill there may be nobody who asks for more: containerd finds no task then.
        assert bench.service.finished.is_set() == (method != "Delete")
        await bench.call("Shutdown", id="pod")
        assert bench.service.finished.is_set()

    play(scenario)


def test_a_pod_that_boots_has_no_state_yet(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        bench.boot_gate = asyncio.Event()
        creating = asyncio.create_task(bench.create("pod", "sandbox"))
        await bench.booting.wait()
        state = await bench.call("State", id="pod")
        assert (state.status, state.pid) == (UNKNOWN, 0)
        bench.boot_gate.set()
        await creating
        state = await bench.call("State", id="pod")
        assert (state.status, state.pid) == (CREATED, PID)

    play(scenario)


def test_a_boot_that_fails_leaves_nothing_and_may_be_tried_again(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        bench.boot_error = LaunchError("OVMF halted on a hash")
        with pytest.raises(LaunchError, match="OVMF halted"):
            await bench.create("pod", "sandbox")
        bench.boot_error = None
        await bench.run("pod", "sandbox")
        assert bench.events.names() == ["TaskCreate", "TaskStart"]

    play(scenario)


def test_a_single_container_whose_image_fails_stops_its_machine(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        out = Reader(bench.fifo("out"))
        bench.guest.failures["CreateContainer"] = UnavailableError("no registry", code="registry.unreachable")
        with pytest.raises(UnavailableError, match="no registry"):
            await bench.create("one", stdout=bench.fifo("out"))
        assert bench.machine is not None
        assert bench.machine.stops == 1
        assert await out.data() == b""
        await bench.call("Shutdown", id="one")
        assert bench.service.finished.is_set()

    play(scenario)


def test_a_pull_taken_back_is_removed_when_it_has_come(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.run("pod", "sandbox")
        bench.guest.gates["CreateContainer"] = asyncio.Event()
        creating = asyncio.create_task(bench.create("one", "container"))
        await bench.guest.arrival("CreateContainer").wait()
        await bench.call("Kill", id="one", signal=15)
        with pytest.raises(InterruptError):
            await creating
        bench.guest.gates["CreateContainer"].set()
        await bench.guest.arrival("RemoveContainer").wait()
        assert bench.events.names("one") == []

    play(scenario)


def test_a_guest_is_not_asked_for_figures_of_a_container_being_made(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.run("pod", "sandbox")
        bench.guest.gates["CreateContainer"] = asyncio.Event()
        creating = asyncio.create_task(bench.create("one", "container"))
        await bench.guest.arrival("CreateContainer").wait()
        with pytest.raises(NotFoundError, match="still being made"):
            await bench.call("Stats", id="one")
        assert not bench.guest.named("StatsContainer")
        bench.guest.gates["CreateContainer"].set()
        await creating
        await bench.call("Stats", id="one")
        assert bench.guest.named("StatsContainer")

    play(scenario)


def test_a_pull_that_takes_too_long_is_given_up_and_removed_when_it_has_come(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.run("pod", "sandbox")
        assert bench.machine is not None
        bench.machine.settings.kata.create_timeout = 0.01
        bench.guest.gates["CreateContainer"] = asyncio.Event()
        with pytest.raises(DeadlineError, match=r"within 0\.01 s") as caught:
            await bench.create("one", "container")
        assert caught.value.code == "agent.deadline"
        assert "create_container_timeout" in (caught.value.remedy or "")
        bench.guest.gates["CreateContainer"].set()
        await bench.guest.arrival("RemoveContainer").wait()
        assert bench.events.names("one") == []

    play(scenario)


def test_copies_for_a_container_that_cannot_be_are_removed(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.run("pod", "sandbox")
        hosts = bench.directory / "hosts"
        hosts.touch()

        def edit(config: dict[str, Any]) -> None:
            sources = {"/etc/hosts": str(hosts), "/pipe": bench.fifo("pipe")}
            config["mounts"] = [
                {"destination": place, "source": source, "type": "bind", "options": ["rbind"]}
                for place, source in sources.items()
            ]

        with pytest.raises(UsageError) as caught:
            await bench.create("one", "container", edit=edit)
        assert caught.value.code == "shim.volume"
        await bench.guest.arrival("RemoveContainer").wait()
        assert len(bench.guest.named("CopyFile")) == 1
        assert [one.container_id for one in bench.guest.named("RemoveContainer")] == ["one"]

    play(scenario)


def test_the_host_kills_the_machine_for_memory(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.run("pod", "sandbox")
        await bench.run("one", "container")
        wait = asyncio.create_task(bench.call("Wait", id="one"))
        await asyncio.sleep(0)
        assert bench.machine is not None
        bench.machine.crash("the host's memory limit", code="guest.host-memory")
        assert (await wait).exit_status == 137
        # Before its end, or containerd does not connect the two.
        assert bench.events.names("one")[-2:] == ["TaskOOM", "TaskExit"]
        assert "TaskOOM" not in bench.events.names("pod")
        with pytest.raises(UnavailableError, match="the host's memory limit"):
            await bench.call("Stats", id="one")

    play(scenario)


def test_a_pods_control_group_is_that_of_its_own_container(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        def edit(config: dict[str, Any]) -> None:
            config["linux"]["cgroupsPath"] = "/kubepods/pod1/pod"

        await bench.run("pod", "sandbox", edit=edit)
        assert bench.requests[0].cgroups_path == "/kubepods/pod1/pod"

    play(scenario)


def test_the_machine_dies_under_its_containers(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        out = Reader(bench.fifo("out"))
        await bench.run("pod", "sandbox")
        await bench.run("one", "container", stdout=bench.fifo("out"))
        await bench.create("two", "container")
        await bench.call("Exec", id="one", exec_id="e", spec=process_spec("/x"))
        await bench.call("Start", id="one", exec_id="e")
        ids = [("one", "e"), ("one", ""), ("two", ""), ("pod", "")]
        waits = [asyncio.create_task(bench.call("Wait", id=name, exec_id=exec_id)) for name, exec_id in ids]
        await asyncio.sleep(0)
        assert bench.machine is not None
        bench.machine.crash("QEMU was killed by signal 9")
        assert [(await wait).exit_status for wait in waits] == [137] * 4
        assert bench.events.exits() == [("e", 137), ("one", 137), ("two", 137), ("pod", 137)]
        assert await out.data() == b""
        for method, fields in (
            ("Start", {"id": "two"}),
            ("Exec", {"id": "one", "exec_id": "f", "spec": process_spec("/x")}),
            ("Stats", {"id": "one"}),
        ):
            with pytest.raises((UnavailableError, VerificationError)) as caught:
                await bench.call(method, **fields)
            if method != "Start":
                assert "killed by signal 9" in caught.value.message
        with pytest.raises(UnavailableError, match="killed by signal 9"):
            await bench.create("three", "container")
        assert await bench.status("one") == STOPPED
        assert len((await bench.call("Pids", id="one")).processes) == 1
        for name in ("one", "two", "pod"):
            await bench.call("Kill", id=name, signal=9)
            assert (await bench.call("Delete", id=name)).exit_status == 137
        await bench.call("Shutdown", id="pod")
        assert bench.service.finished.is_set()
        assert bench.events.names().count("TaskExit") == 4

    play(scenario)


@pytest.mark.parametrize("method", ["CreateContainer", "StartContainer", "ExecProcess", "SignalProcess"])
def test_the_machine_dies_during_a_call(play: Callable[[Scenario], None], method: str) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.run("pod", "sandbox")
        bench.guest.gates[method] = asyncio.Event()

        async def calls() -> None:
            await bench.run("one", "container")
            await bench.call("Exec", id="one", exec_id="e", spec=process_spec("/x"))
            await bench.call("Start", id="one", exec_id="e")
            await bench.call("Kill", id="one", signal=9)

        calling = asyncio.create_task(calls())
        await bench.guest.arrival(method).wait()
        assert bench.machine is not None
        bench.machine.crash("kernel panic")
        if method == "SignalProcess":
            await calling
        else:
            with pytest.raises(UnavailableError, match="kernel panic"):
                await calling
        names = bench.events.names("one")
        assert names.count("TaskExit") == {"CreateContainer": 0, "SignalProcess": 2}.get(method, 1)
        assert "TaskStart" not in names[names.index("TaskExit") :] if "TaskExit" in names else True

    play(scenario)


def test_a_kill_while_it_starts_comes_after_the_start(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.create("one")
        bench.guest.gates["StartContainer"] = asyncio.Event()
        starting = asyncio.create_task(bench.call("Start", id="one"))
        await bench.guest.arrival("StartContainer").wait()
        killing = asyncio.create_task(bench.call("Kill", id="one", signal=9))
        await asyncio.sleep(0)
        bench.guest.gates["StartContainer"].set()
        await asyncio.gather(starting, killing)
        assert (await bench.call("Wait", id="one")).exit_status == 137
        assert bench.events.names() == ["TaskCreate", "TaskStart", "TaskExit"]

    play(scenario)


@pytest.mark.parametrize("method", ["StartContainer", "ExecProcess"])
def test_a_start_the_guest_has_answered_before_it_died(play: Callable[[Scenario], None], method: str) -> None:
    async def scenario(bench: Bench) -> None:
        bench.guest.gates[method] = asyncio.Event()
        await bench.create("one")
        if method == "ExecProcess":
            await bench.call("Start", id="one")
            await bench.call("Exec", id="one", exec_id="e", spec=process_spec("/x"))
        exec_id = "e" if method == "ExecProcess" else ""
        starting = asyncio.create_task(bench.call("Start", id="one", exec_id=exec_id))
        await bench.guest.arrival(method).wait()
        assert bench.machine is not None
        bench.machine.crash("kernel panic", answers=True)
        await bench.call("Wait", id="one")
        bench.guest.gates[method].set()
        with pytest.raises(UnavailableError, match="kernel panic"):
            await starting
        assert bench.events.names()[-1] == "TaskExit"

    play(scenario)


def test_a_wait_that_fails_is_255(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        bench.guest.failures["WaitProcess"] = OperationError("lost it")
        bench.guest.instant = 0
        await bench.run("one")
        assert (await bench.call("Wait", id="one")).exit_status == 255

    play(scenario)


def test_closing_the_service_ends_everything(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.run("pod", "sandbox")
        await bench.run("one", "container")
        await bench.service.close()
        assert bench.events.exits() == [("one", 137), ("pod", 137)]
        assert bench.machine is not None
        assert bench.machine.stops == 1

    play(scenario)


def test_two_deletes_at_once(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.run("pod", "sandbox")
        await bench.run("one", "container")
        await bench.call("Kill", id="one", signal=9)
        await bench.call("Wait", id="one")
        answers = await asyncio.gather(
            *(bench.call("Delete", id="one") for _ in range(2)), return_exceptions=True
        )
        assert sorted(isinstance(answer, Exception) for answer in answers) == [False, True]
        assert bench.events.names("one").count("TaskDelete") == 1

    play(scenario)
