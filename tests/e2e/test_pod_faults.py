# SPDX-License-Identifier: Apache-2.0
"""Whatever breaks under a pod: the right status and reason, the rest goes on, and nothing stays.

Every test has pods of its own; ``nothing_left`` removes them and looks for what remains of them: processes,
mounts, namespaces, interfaces, sockets, shared memory, state.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from criclient import CRI, EXITED, NOT_READY, READY, RUNNING, CriClient, Pod, log, wait_for_log
from podimages import CONFIDENTIAL, PodLab

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("nothing_left"), pytest.mark.timeout(600)]
SLEEP = ("sleep", "100000")
TICK = ("sh", "-c", "i=0; while true; do i=$((i+1)); echo tick $i; sleep 0.2; done")
CRASH = ("sh", "-c", "mount -t proc proc /mnt && echo c > /mnt/sysrq-trigger")
SILENCE_SECONDS = 120.0  # the agent may be late for a minute before it is given up
FLOOD = 100_000_000
MIB = 1 << 20


@pytest.fixture
def cri(pods: PodLab) -> CriClient:
    return pods.host.cri


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait for something that gives no event."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"in {seconds} s: never {what}"
        time.sleep(0.1)


def record(pods: PodLab, pod_id: str) -> dict[str, dict[str, int]]:
    """The recorded processes of a pod: shim, qemu, platform."""
    path = Path(pods.host.run, "sandboxes", pod_id, "sandbox.json")
    try:
        processes: dict[str, dict[str, int]] = json.loads(path.read_text())["processes"]
    except (FileNotFoundError, KeyError):
        return {}
    return processes


def process(pods: PodLab, pod: Pod, name: str) -> int:
    return record(pods, pod.id)[name]["pid"]


def assert_pod_is_dead(cri: CriClient, pod: Pod, container: str, statuses: tuple[int, ...] = (137,)) -> None:
    """containerd knows of the end of pod and container, and of the container's status."""
    ended = cri.wait_for_exit(container)
    assert ended.exit_code in statuses
    until(lambda: cri.pod_status(pod).state == NOT_READY, "is the pod seen to be dead")
    with pytest.raises(grpc.RpcError):
        cri.exec(container, "true")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["ended", "killed"])
def test_containerd_starts_again(pods: PodLab, cri: CriClient, number: int) -> None:
    pod = cri.run_pod("kata-qemu", pods.host.logs)
    lasting = cri.run(pod, pods.image("plain"), *TICK, name="lasting")
    ending = cri.run(
        pod, pods.image("plain"), "sh", "-c", "until [ -e /dev/shm/end ]; do sleep 0.1; done; exit 9"
    )
    # Said before containerd goes, done while nobody is there to see it.
    cri.read(lasting, "sh", "-c", "(sleep 1; touch /dev/shm/end) > /dev/null 2>&1 &")
    wait_for_log(pod, "tick 3\n", "lasting")
    qemu = process(pods, pod, "qemu")
    pods.host.stop(number)
    time.sleep(2)  # the event is in the guest, which nobody can ask now
    pods.host.start()
    assert process(pods, pod, "qemu") == qemu
    assert (cri.pod_status(pod).state, cri.status(lasting).state) == (READY, RUNNING)
    assert cri.read(lasting, "echo", "here") == "here\n"
    assert cri.wait_for_exit(ending).exit_code == 9
    seen = len(log(pod, "lasting"))
    until(lambda: len(log(pod, "lasting")) > seen, "does the log go on")
    cri.stop(lasting, grace=0)
    assert cri.status(lasting).exit_code == 137


def test_the_shim_is_killed(pods: PodLab, cri: CriClient) -> None:
    pod = cri.run_pod(CONFIDENTIAL, pods.host.logs)
    container = cri.run(pod, pods.image("encrypted"), *SLEEP)
    os.kill(process(pods, pod, "shim"), signal.SIGKILL)
    assert_pod_is_dead(cri, pod, container, (137, 255))


def test_the_machine_is_killed(pods: PodLab, cri: CriClient) -> None:
    pod = cri.run_pod("kata-qemu", pods.host.logs)
    container = cri.run(pod, pods.image("plain"), *SLEEP)
    os.kill(process(pods, pod, "qemu"), signal.SIGKILL)
    assert_pod_is_dead(cri, pod, container)


def test_the_guests_kernel_crashes(pods: PodLab, cri: CriClient, tmp_path: Path) -> None:
    pod = cri.run_pod("kata-qemu", pods.host.logs)
    words = tmp_path / "words"
    words.touch(mode=0o666)
    mounts = {"/dev/termination-log": str(words)}
    container = cri.run(pod, pods.image("plain"), *SLEEP, mounts=mounts)
    allowed = {"capabilities": CRI.new("Capabilities", add_capabilities=["SYS_ADMIN"])}
    cri.run(pod, pods.image("plain"), *CRASH, name="crash", security=allowed)
    assert_pod_is_dead(cri, pod, container)
    # Of a pod that has failed kubelet shows nothing else.
    assert words.read_text().startswith("the pod's guest is gone: the guest's machine ended")
    assert "Kernel panic - not syncing: sysrq triggered crash" in words.read_text()


def test_guests_stand_still(pods: PodLab, cri: CriClient) -> None:
    watched, stopped = (cri.run_pod("kata-qemu", pods.host.logs) for _ in range(2))
    container = cri.run(watched, pods.image("plain"), *SLEEP)
    cri.run(stopped, pods.image("plain"), *SLEEP)
    for pod in (watched, stopped):
        os.kill(process(pods, pod, "qemu"), signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(stop_as_kubelet_does, cri, stopped)
        assert cri.wait_for_exit(container, SILENCE_SECONDS).exit_code == 137
        assert_pod_is_dead(cri, watched, container)
        stopping.result()
    # A stop that found the task gone is answered before containerd has heard of the task's end.
    until(lambda: cri.pod_status(stopped).state == NOT_READY, "is the stopped pod seen to be dead")


def stop_as_kubelet_does(cri: CriClient, pod: Pod) -> None:
    """Ask again when the guest was asked and did not answer."""
    with contextlib.suppress(grpc.RpcError):
        cri.stop_pod(pod.id, SILENCE_SECONDS)
    cri.stop_pod(pod.id, SILENCE_SECONDS)


def test_the_guests_memory_ends(pods: PodLab, cri: CriClient) -> None:
    pod = cri.run_pod("kata-qemu", pods.host.logs)
    container = cri.run(pod, pods.image("plain"), *SLEEP)
    hog = cri.run(pod, pods.image("plain"), "dd", "if=/dev/zero", "of=/dev/null", "bs=2000M", name="hog")
    assert cri.wait_for_exit(hog).exit_code in (1, 137)
    filler = cri.run(pod, pods.image("plain"), "sh", "-c", "x=y; while true; do x=$x$x; done", name="filler")
    assert cri.wait_for_exit(filler).exit_code == 137
    # The kernel took the hog, not the agent.
    assert cri.read(container, "echo", "here") == "here\n"


def test_the_key_broker_goes(pods: PodLab, cri: CriClient) -> None:
    pod = cri.run_pod("spare", pods.host.logs)
    os.kill(pods.spare.pid, signal.SIGKILL)
    with pytest.raises(grpc.RpcError) as pulled:
        cri.run(pod, pods.image("encrypted"), *SLEEP)
    assert "key broker" in str(pulled.value)
    with pytest.raises(grpc.RpcError) as launched:
        cri.run_pod("spare", pods.host.logs)
    assert "[kbs.unreachable]" in str(launched.value)
    assert "getting a session from the key broker failed" in str(launched.value)
    # What needs no key goes on.
    container = cri.run(pod, pods.image("plain"), *SLEEP, name="plain")
    assert cri.read(container, "echo", "here") == "here\n"


def test_nobody_reads_what_a_container_says(pods: PodLab, cri: CriClient) -> None:
    pod = cri.run_pod("kata-qemu", pods.host.logs)
    script = (
        f'until [ -e /dev/shm/go ]; do sleep 0.1; done; yes "$(printf %0999d 7)" | head -c {FLOOD}; exit 5'
    )
    flood = cri.run(pod, pods.image("plain"), "sh", "-c", script, name="flood")
    other = cri.run(pod, pods.image("plain"), *SLEEP, name="other")
    shim = process(pods, pod, "shim")
    cri.read(other, "sh", "-c", "(sleep 1; touch /dev/shm/go) > /dev/null 2>&1 &")
    before = written(shim)
    os.kill(pods.host.pid, signal.SIGSTOP)
    try:
        until(lambda: written(shim) > before + 60_000, "does the shim write")
        until(lambda: is_still(shim), "does the shim wait for its reader")
        assert resident(shim) < 100 * MIB
    finally:
        os.kill(pods.host.pid, signal.SIGCONT)
    assert cri.wait_for_exit(flood, 300).exit_code == 5
    until(lambda: len(log(pod, "flood")) >= FLOOD, "is all of it in the log")
    assert len(log(pod, "flood")) == FLOOD
    assert resident(shim) < 100 * MIB


def written(pid: int) -> int:
    """Bytes a process has given to write(2) so far."""
    fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(fields["wchar"])


def is_still(pid: int) -> bool:
    """For a second, a process writes next to nothing."""
    before = written(pid)
    time.sleep(1)
    return written(pid) - before < 4096


def resident(pid: int) -> int:
    """Bytes of memory a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("handler", ["kata-qemu", CONFIDENTIAL])
def test_a_pod_is_stopped_while_it_boots(pods: PodLab, cri: CriClient, handler: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        before = sandboxes(pods)
        start = pool.submit(cri.run_pod, handler, pods.host.logs)
        until(lambda: any("qemu" in record(pods, one) for one in sandboxes(pods) - before), "does QEMU run")
        (pod_id,) = sandboxes(pods) - before
        done = pods.host.ctr("--namespace", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", pod_id)
        with pytest.raises(grpc.RpcError) as caught:
            start.result(60)
    assert caught.value.code() != grpc.StatusCode.DEADLINE_EXCEEDED, done


def test_containerd_is_killed_while_a_pod_boots(pods: PodLab, cri: CriClient) -> None:
    before = sandboxes(pods)
    with ThreadPoolExecutor(1) as pool:
        start = pool.submit(cri.run_pod, "kata-qemu", pods.host.logs)
        until(lambda: any("qemu" in record(pods, one) for one in sandboxes(pods) - before), "does QEMU run")
        (pod_id,) = sandboxes(pods) - before
        shim = record(pods, pod_id)["shim"]["pid"]
        pods.host.restart(signal.SIGKILL)
        with pytest.raises(grpc.RpcError):
            start.result(60)
    until(lambda: sandboxes(pods) == before, "is the pod gone")
    until(lambda: not os.path.exists(f"/proc/{shim}"), "is its shim gone")
    cri.stop_pod(pod_id)
    cri.remove_pod(pod_id)


def test_a_request_for_a_pod_is_taken_back(pods: PodLab, cri: CriClient) -> None:
    before = sandboxes(pods)
    request = CRI.new(
        "RunPodSandboxRequest", config=cri.pod_config(pods.host.logs), runtime_handler=CONFIDENTIAL
    )
    with grpc.insecure_channel(f"unix://{pods.host.socket}") as channel:
        call = channel.unary_unary("/runtime.v1.RuntimeService/RunPodSandbox").future(request.encode())
        until(lambda: any("qemu" in record(pods, one) for one in sandboxes(pods) - before), "does QEMU run")
        call.cancel()
    until(lambda: sandboxes(pods) == before, "is the pod gone")


def sandboxes(pods: PodLab) -> set[str]:
    """Ids of pods with state on disk."""
    path = Path(pods.host.run, "sandboxes")
    return set(os.listdir(path)) if path.exists() else set()


def test_twenty_pods_come_and_go(pods: PodLab, cri: CriClient) -> None:
    kinds = [("kata-qemu", "plain"), (CONFIDENTIAL, "encrypted"), ("kata", "named")]
    kinds += [("offline", "encrypted"), ("es", "encrypted"), ("counted", "plain")]

    def cycle(number: int) -> None:
        handler, tag = kinds[number % len(kinds)]
        pod = cri.run_pod(handler, pods.host.logs)
        container = cri.run(pod, pods.image(tag), *SLEEP)
        assert cri.read(container, "cat", "/etc/marker") == f"{pods.marker}\n"
        if number % 3:
            cri.stop(container, grace=0)
            assert cri.status(container).state == EXITED
        cri.end_pod(pod)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(cycle, number) for number in range(20)]:
            done.result()
