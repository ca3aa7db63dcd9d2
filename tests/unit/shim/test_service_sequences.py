# SPDX-License-Identifier: Apache-2.0
"""Any sequence of Task calls, in any interleaving: events stay in order and nothing ends twice."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from podkit import Bench, process_spec

from sealpod.errors import SealpodError

NAMES = ("pod", "one", "two")
KINDS = {"pod": "sandbox", "one": "container", "two": "container"}
EXECS = ("", "e")
METHODS = (
    "Create",
    "Start",
    "Exec",
    "Kill",
    "Delete",
    "Pause",
    "Resume",
    "State",
    "Shutdown",
    "Exit",
    "Crash",
)

step = st.tuples(
    st.sampled_from(METHODS),
    st.sampled_from(NAMES),
    st.sampled_from(EXECS),
    st.sampled_from((9, 15, 28)),
    st.integers(0, 3),
)
begun = [("Create", "pod", "", 9, 3), ("Start", "pod", "", 9, 3), ("Create", "one", "", 9, 3)]


async def act(bench: Bench, method: str, name: str, exec_id: str, signal: int) -> None:
    with contextlib.suppress(SealpodError):
        if method == "Create":
            await bench.create(name, KINDS[name])
        elif method == "Crash":
            if bench.machine is not None and signal == 28:
                bench.machine.crash("crash")
        elif method == "Exit":
            process = bench.guest.processes.get((name, exec_id or name))
            if process is not None and process.started:
                await process.exit(signal)
        else:
            fields: dict[str, Any] = {"id": name}
            if method in ("Start", "Kill", "Delete", "State"):
                fields["exec_id"] = exec_id
            if method == "Exec":
                fields |= {"exec_id": "e", "spec": process_spec("/x")}
            if method == "Kill":
                fields["signal"] = signal
            await bench.call(method, **fields)


async def play(directory: Path, steps: list[tuple[str, str, str, int, int]]) -> Bench:
    bench = Bench(directory)
    calls = []
    for method, name, exec_id, signal, turns in steps:
        calls.append(asyncio.create_task(act(bench, method, name, exec_id, signal)))
        for _ in range(turns * 4):
            await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await asyncio.gather(*calls)
        await bench.service.close()
    return bench


def check(events: list[tuple[str, Any]]) -> None:
    """The mandated order, life by life: a name may be used again after its end."""
    state: dict[tuple[str, str], str] = {}
    for name, event in events:
        container = event.container_id
        exec_id = getattr(event, "exec_id", "") if name.startswith("TaskExec") else ""
        if name == "TaskExit" and event.id != container:
            exec_id = event.id
        key = (container, exec_id)
        was = state.get(key)
        match name:
            case "TaskCreate":
                assert was is None
            case "TaskStart":
                assert was == "TaskCreate"
            case "TaskExecAdded":
                # An exec that was never started may be deleted without a word.
                assert was in (None, "TaskExecAdded", "TaskExit")
                assert (container, "") in state
            case "TaskExecStarted":
                assert was == "TaskExecAdded"
            case "TaskExit":
                assert was in (("TaskExecStarted",) if exec_id else ("TaskCreate", "TaskStart"))
            case "TaskDelete":
                assert was == "TaskExit"
            case _:
                assert was == "TaskStart"
                continue
        state[key] = name
        if name == "TaskDelete":
            state = {one: last for one, last in state.items() if one[0] != container}


@settings(max_examples=250, deadline=None)
@given(st.lists(step, max_size=25))
def test_events_are_in_order_and_ends_are_told_once(steps: list[tuple[str, str, str, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        bench = asyncio.run(play(Path(directory), [*begun, *steps]))
    check(bench.events.seen)
    # Whatever happened, no machine is left, and none is stopped twice.
    assert bench.machine is None or bench.machine.stops == 1
