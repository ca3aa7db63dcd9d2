# SPDX-License-Identifier: Apache-2.0
"""Freezing and signalling a real control group, without crun; and the queue of out-of-memory events.

The memory controller is not to be had on every machine that tests; its events are an end-to-end test's.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from cgroups import make_cgroup

from sealpod.agent import oom
from sealpod.agent.cgroup import Cgroup
from sealpod.errors import ConflictError, OperationError

Start = Callable[..., "subprocess.Popen[bytes]"]
TRAP = "trap 'echo got; exit 3' USR1; echo ready; while :; do sleep 0.05; done"


@pytest.fixture
def place() -> Iterator[tuple[str, str]]:
    """A cgroup2 root with an empty group for the container ``c`` in it: the root, the group."""
    with make_cgroup("c") as made:
        yield made


@pytest.fixture
def start(place: tuple[str, str]) -> Iterator[Start]:
    started = []

    def run(*command: str, below: str = "") -> subprocess.Popen[bytes]:
        group = os.path.join(place[1], below)
        os.makedirs(group, exist_ok=True)
        script = 'echo $$ > "$0/cgroup.procs"; exec "$@"'
        process = subprocess.Popen(["/bin/sh", "-c", script, group, *command], stdout=subprocess.PIPE)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"


def frozen(place: tuple[str, str]) -> bool:
    with open(f"{place[1]}/cgroup.events", encoding="ascii") as file:
        return "frozen 1" in file.read()


def test_freezing_and_thawing(place: tuple[str, str], start: Start) -> None:
    group, process = Cgroup("c", place[0]), start("/bin/sh", "-c", TRAP)
    ready(process)
    group.freeze()
    assert frozen(place)
    group.freeze()
    process.send_signal(signal.SIGUSR1)
    group.thaw()
    assert process.wait(60) == 3


def test_a_frozen_group_can_be_killed(place: tuple[str, str], start: Start) -> None:
    group, process = Cgroup("c", place[0]), start("/bin/sh", "-c", TRAP)
    ready(process)
    group.freeze()
    group.signal(signal.SIGKILL, ())
    assert process.wait(60) == -signal.SIGKILL


def test_a_signal_reaches_all_but_those_who_have_it(place: tuple[str, str], start: Start) -> None:
    group = Cgroup("c", place[0])
    spared = start("/bin/sh", "-c", TRAP)
    others = [start("/bin/sh", "-c", TRAP), start("/bin/sh", "-c", TRAP, below="inner")]
    for process in (spared, *others):
        ready(process)
    group.freeze()
    group.signal(signal.SIGUSR1, {spared.pid})
    assert [process.wait(60) for process in others] == [3, 3]
    assert spared.poll() is None
    assert not frozen(place)


def test_a_group_that_is_not_there_is_empty(place: tuple[str, str]) -> None:
    group = Cgroup("none", place[0])
    group.signal(signal.SIGTERM, ())
    group.kill()
    assert group.processes() == []
    for refused in (group.freeze, group.thaw):
        with pytest.raises(OperationError) as caught:
            refused()
        assert caught.value.code == "container.pause"


def test_only_the_latest_who_asks_is_told() -> None:
    events = oom.Oom()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(events.wait)
        with events._changed:
            assert events._changed.wait_for(lambda: events._asked, 60)
        second = pool.submit(events.wait)
        with pytest.raises(ConflictError):
            first.result(60)
        events.add("c1")
        assert second.result(60) == "c1"


def test_what_nobody_asks_for_is_bounded() -> None:
    events = oom.Oom()
    for number in range(oom.MAX_EVENTS + 3):
        events.add(f"c{number}")
    assert events.wait() == "c3"


def test_the_kernels_count() -> None:
    assert oom.count(b"low 0\nhigh 0\nmax 9\noom 4\noom_kill 2\noom_group_kill 0\n") == 2
    assert oom.count(b"") == oom.count(b"oom_kill x\n") == 0


def test_a_cgroup_that_cannot_be_watched_is_left_alone() -> None:
    oom.Oom().watch("c1", "/no/such/cgroup")
