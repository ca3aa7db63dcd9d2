# SPDX-License-Identifier: Apache-2.0
"""Pods in the control groups kubelet makes for them: who is where, what is counted, whose limit was hit.

The handler ``counted`` has ``sandbox_cgroup_only = true``; of ``kata-qemu`` it is false.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import podgroups
import pytest
from criclient import CriClient, Pod
from podgroups import PodGroup, groups_of
from podimages import PodLab

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("nothing_left"), pytest.mark.timeout(600)]
MIB = 1 << 20
GUEST_TOUCHES = 100 * MIB  # at the least, until its agent answers
UNLIMITED = "needs the memory controller of control groups"
ROOM = 8  # MiB the machine may grow by
WAITER = (
    *("sh", "-c"),
    "until [ -e /dev/shm/go ]; do sleep 0.1; done; dd if=/dev/zero of=/dev/shm/x bs=1M count=60; sleep 1000",
)


@pytest.fixture
def cri(pods: PodLab) -> CriClient:
    return pods.host.cri


@pytest.fixture
def group() -> Iterator[PodGroup]:
    tree = podgroups.tree()
    if tree is None:
        pytest.skip("needs writable control groups")
    with podgroups.pod_group(tree) as made:
        yield made


def record(pods: PodLab, pod: Pod) -> Any:
    return json.loads(Path(pods.host.run, "sandboxes", pod.id, "sandbox.json").read_text())


def pids(pods: PodLab, pod: Pod) -> dict[str, int]:
    return {name: one["pid"] for name, one in record(pods, pod)["processes"].items()}


def processors(qemu: int) -> set[int]:
    """QEMU's threads that are the guest's processors, by their names."""
    return {
        int(thread)
        for thread in os.listdir(f"/proc/{qemu}/task")
        if Path(f"/proc/{qemu}/task/{thread}/comm").read_text().startswith("CPU ")
    }


def test_all_of_a_pod_is_in_its_group_whose_limit_holds(
    pods: PodLab, cri: CriClient, group: PodGroup
) -> None:
    pod = cri.run_pod("counted", pods.host.logs, cgroup_parent=group.path)
    place = f"{group.path}/kata_{pod.id}"
    found = pids(pods, pod)
    for pid in (found["shim"], found["qemu"], *processors(found["qemu"])):
        assert groups_of(pid, group.tree) == {place}
    if not group.is_limited():
        cri.end_pod(pod)
        assert group.below() == set()
        pytest.skip(UNLIMITED)
    assert group.memory() > GUEST_TOUCHES
    assert group.cpu() > 0.5
    container = cri.run(pod, pods.image("plain"), *WAITER)
    group.limit_memory(limit := (group.memory() // MIB + ROOM) * MIB)
    with contextlib.suppress(grpc.RpcError):  # it ends with the machine
        cri.exec(container, "touch", "/dev/shm/go")
    ended = cri.wait_for_exit(container)
    assert (ended.exit_code, ended.reason) == (137, "OOMKilled")
    told = f"the host's memory limit of the pod killed QEMU ({limit // MIB} MiB, {group.path})"
    assert f"the pod's guest is gone: {told}" in pods.host.log()
    cri.end_pod(pod)
    assert group.below() == set()


def test_a_limit_too_low_to_boot(pods: PodLab, cri: CriClient, group: PodGroup) -> None:
    if not group.is_limited():
        pytest.skip(UNLIMITED)
    group.limit_memory(GUEST_TOUCHES)
    with pytest.raises(grpc.RpcError) as error:
        cri.run_pod("counted", pods.host.logs, cgroup_parent=group.path)
    told = f"the host's memory limit of the pod killed QEMU ({GUEST_TOUCHES // MIB} MiB, {group.path})"
    assert told in str(error.value)
    assert "[guest.host-memory]" in str(error.value)
    assert group.below() == set()


def test_processors_are_in_the_pods_group_and_the_rest_beside(
    pods: PodLab, cri: CriClient, group: PodGroup
) -> None:
    pod = cri.run_pod("kata-qemu", pods.host.logs, cgroup_parent=group.path)
    place, overhead = f"{group.path}/kata_{pod.id}", f"/kata_overhead/{pod.id}"
    found = pids(pods, pod)
    assert groups_of(found["shim"], group.tree) == {overhead}
    threads = processors(found["qemu"])
    assert threads
    for thread in threads:
        assert groups_of(thread, group.tree) == {place}
    whole = group.tree.version == 2
    assert groups_of(found["qemu"], group.tree) == {place if whole else overhead}
    if group.is_limited():
        assert (group.memory() > GUEST_TOUCHES) == whole
    assert group.cpu() > 0.5
    if group.has_cpuset() and (last := max(os.sched_getaffinity(0))):
        # As kubelet's CPU manager has it: processors of its own for a container.
        container = cri.run(pod, pods.image("plain"), *WAITER, limits={"cpuset_cpus": str(last)})
        assert all(os.sched_getaffinity(thread) == {last} for thread in threads)
        assert len(os.sched_getaffinity(found["shim"])) > 1
        cri.update(container, cpuset_cpus="0")
        assert all(os.sched_getaffinity(thread) == {0} for thread in threads)
    cri.end_pod(pod)
    assert group.below() == set()
    assert not any(os.path.exists(one.directory(overhead)) for one in group.tree.hierarchies)
