# SPDX-License-Identifier: Apache-2.0
"""Containers by hand: ``ctr run --runtime io.containerd.kata-qemu.v2``, each in a guest of its own.

The guest is on QEMU's user network, as there is no pod to get a network from. Images come from kubelet's
pull: ``ctr`` itself has no way to leave the layers to a snapshotter.
"""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator, Sequence

import pytest
from podimages import PodLab

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("nothing_left")]
NAMESPACE = ("--namespace", "k8s.io")


@pytest.fixture
def run(pods: PodLab) -> list[str]:
    """``ctr run`` up to the image."""
    pods.host.cri.pull(pods.image("plain"))
    config = f"{pods.host.directory}/kata/kata-qemu.toml"
    runtime = ("--runtime", "io.containerd.kata-qemu.v2", "--runtime-config-path", config)
    return [*NAMESPACE, "run", "--snapshotter", "sealpod", *runtime]


@pytest.fixture
def detached(pods: PodLab, run: list[str]) -> Iterator[str]:
    """A container that sleeps; its id."""
    done = pods.host.ctr(*run, "--detach", pods.image("plain"), "by-hand", "sleep", "100000")
    assert done.returncode == 0, done.stderr
    yield "by-hand"
    pods.host.ctr(*NAMESPACE, "tasks", "delete", "--force", "by-hand")
    done = pods.host.ctr(*NAMESPACE, "containers", "delete", "by-hand")
    assert done.returncode == 0, done.stderr


def test_it_prints_and_ends_as_its_program_does(pods: PodLab, run: list[str]) -> None:
    script = "cat /etc/marker; cat; echo oops >&2; exit 5"
    command = ["ctr", "--address", pods.host.socket, *run, "--rm", pods.image("plain"), "once", "sh", "-c"]
    done = subprocess.run(
        [*command, script],
        input=b"from standard input\n",
        capture_output=True,
        env=pods.host.environment,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (5, b"oops\n")
    assert done.stdout == f"{pods.marker}\nfrom standard input\n".encode()


def test_it_can_be_paused_entered_and_killed(pods: PodLab, detached: str) -> None:
    def task(*words: str) -> subprocess.CompletedProcess[str]:
        return pods.host.ctr(*NAMESPACE, "tasks", *words)

    done = task("exec", "--exec-id", "one", detached, "sh", "-c", "echo out; echo err >&2; exit 9")
    assert (done.returncode, done.stdout, done.stderr) == (9, "out\n", "err\n")
    done = task("exec", "--exec-id", "none", detached, "/no/such/program")
    assert (done.returncode, "/no/such/program" in done.stderr) == (1, True)
    assert task("pause", detached).returncode == 0
    assert "PAUSED" in task("ls").stdout
    assert task("resume", detached).returncode == 0
    assert "RUNNING" in task("ls").stdout
    assert "memory.usage" in task("metrics", detached).stdout
    assert task("kill", "--signal", "SIGKILL", detached).returncode == 0
    deadline = time.monotonic() + 30
    while "STOPPED" not in task("ls").stdout:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "exit code 137" in task("delete", detached).stderr


def test_a_terminal_is_passed_through(pods: PodLab, detached: str) -> None:
    # The size is told once the process runs.
    script = "tty; until stty size | grep 30.100; do sleep 0.1; done; exit 4"
    words = ["tasks", "exec", "--tty", "--exec-id", "tty", detached, "sh", "-c", script]
    for _ in range(2):  # the name is free again
        status, seen = on_terminal(["ctr", "--address", pods.host.socket, *NAMESPACE, *words], pods)
        assert status == 4
        assert "/dev/pts/0" in seen
        assert "30 100" in seen


def on_terminal(command: Sequence[str], pods: PodLab) -> tuple[int, str]:
    """Exit status and output of a command on a terminal of 30 lines and 100 columns."""
    ours, its = pty.openpty()
    try:
        subprocess.run(["stty", "rows", "30", "columns", "100"], stdin=its, check=True)
        process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=pods.host.environment)
        os.close(its)
        seen, deadline = b"", time.monotonic() + 60
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 1)[0]:
                continue
            try:
                seen += os.read(ours, 4096)
            except OSError:
                break
        return process.wait(30), seen.decode(errors="replace")
    finally:
        os.close(ours)
