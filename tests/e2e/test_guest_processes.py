# SPDX-License-Identifier: Apache-2.0
"""Processes, limits and numbers where containers have real control groups: in a booted guest.

The same calls in a stand-in, without limits: tests/unit/agent/test_processes.py.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest
from guestpod import GuestPod, booted
from labkit import Lab, hosted

from sealpod.errors import ConflictError
from sealpod.wire.pb import agent_pb2, oci_pb2

pytestmark = pytest.mark.e2e
MEGABYTE = 1 << 20
FOREVER = ("sh", "-c", "echo ready; while :; do sleep 0.1; done")


@pytest.fixture(scope="module")
def pod(lab: Lab, runner: asyncio.Runner) -> Iterator[GuestPod]:
    with lab.place.unchanged(), hosted(runner, booted(lab)) as agent:
        yield GuestPod(agent, runner, lab)


@pytest.fixture
def running(pod: GuestPod) -> Iterator[str]:
    """A container that waits, with limits."""
    name = pod.start(
        *FOREVER,
        Memory=oci_pb2.LinuxMemory(Limit=32 * MEGABYTE),
        CPU=oci_pb2.LinuxCPU(Shares=512),
        Pids=oci_pb2.LinuxPids(Limit=50),
    )
    yield name
    pod.remove(name)


def stats(pod: GuestPod, name: str) -> agent_pb2.StatsContainerResponse:
    request = agent_pb2.StatsContainerRequest(container_id=name)
    answer = pod.call(request, agent_pb2.StatsContainerResponse())
    assert isinstance(answer, agent_pb2.StatsContainerResponse)
    return answer


def test_a_process_beside_the_first(pod: GuestPod, running: str) -> None:
    assert pod.run(running, "x", "sh", "-c", "echo $$ $(cat /proc/1/comm); exit 4")[0] == 4
    status, score = pod.run(
        running, "score", "busybox", "cat", "/proc/self/oom_score_adj", "/proc/1/oom_score_adj"
    )
    assert (status, score) == (0, b"0\n0\n")  # the agent's own is not inherited


def test_limits_are_counted_and_changed(pod: GuestPod, running: str) -> None:
    group = stats(pod, running).cgroup_stats
    assert group.memory_stats.usage.limit == 32 * MEGABYTE
    assert 0 < group.memory_stats.usage.usage <= 32 * MEGABYTE
    assert group.pids_stats.limit == 50
    assert group.pids_stats.current >= 1
    assert group.cpu_stats.cpu_usage.total_usage > 0
    assert "anon" in {entry.key for entry in group.memory_stats.stats}
    resources = oci_pb2.LinuxResources(
        Memory=oci_pb2.LinuxMemory(Limit=64 * MEGABYTE), Pids=oci_pb2.LinuxPids(Limit=60)
    )
    pod.call(agent_pb2.UpdateContainerRequest(container_id=running, resources=resources))
    answer = stats(pod, running)
    assert answer.cgroup_stats.memory_stats.usage.limit == 64 * MEGABYTE
    assert answer.cgroup_stats.pids_stats.limit == 60
    assert {one.name: one.rx_bytes > 0 for one in answer.network_stats}["eth0"]


def test_pausing(pod: GuestPod, running: str) -> None:
    pod.call(agent_pb2.PauseContainerRequest(container_id=running))
    with pytest.raises(ConflictError, match="paused"):
        pod.run(running, "x", "busybox", "true")
    before = stats(pod, running).cgroup_stats.cpu_stats.cpu_usage.usage_in_usermode
    assert stats(pod, running).cgroup_stats.cpu_stats.cpu_usage.usage_in_usermode == before
    pod.call(agent_pb2.ResumeContainerRequest(container_id=running))
    assert pod.run(running, "x", "busybox", "true") == (0, b"")
    pod.call(agent_pb2.PauseContainerRequest(container_id=running))
    pod.signal(running, signal.SIGKILL)
    assert pod.status(running) == 137


def test_a_signal_to_all(pod: GuestPod) -> None:
    name = pod.start("sh", "-c", "trap 'echo bye; exit 3' TERM; sleep 1000 & echo ready; wait")
    assert pod.wait(anext(aiter(pod.agent.output(name, "ReadStdout")))) == b"ready\n"
    pod.signal(name, signal.SIGTERM)
    assert pod.output(name) == b"bye\n"
    assert pod.status(name) == 3
    pod.remove(name)


def test_out_of_memory_is_told(pod: GuestPod) -> None:
    async def wait() -> str:
        payload = await pod.agent.call("GetOOMEvent", agent_pb2.GetOOMEventRequest(), seconds=None)
        return agent_pb2.OOMEvent.FromString(payload).container_id

    limit = oci_pb2.LinuxMemory(Limit=16 * MEGABYTE, Swap=16 * MEGABYTE)
    # dd wants its block in memory at once.
    name = pod.start("busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1", Memory=limit)
    assert pod.wait(asyncio.wait_for(wait(), 120)) == name
    assert pod.status(name) == 137
    pod.remove(name)
    answer = pod.call(agent_pb2.GetMetricsRequest(), agent_pb2.Metrics())
    assert "sealpod_guest_memory_total_bytes" in answer.metrics  # the agent lives


def test_much_output_arrives_whole(pod: GuestPod) -> None:
    name = pod.start("busybox", "dd", "if=/dev/zero", "bs=64k", "count=200")
    assert pod.output(name) == bytes(200 * 65536)
    assert pod.status(name) == 0
    pod.remove(name)
