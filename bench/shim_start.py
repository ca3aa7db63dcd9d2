# SPDX-License-Identifier: Apache-2.0
"""The shim's ``start`` against its floor. Prints figures; asserts nothing.

Floor: the same interpreter doing nothing (``-c pass``). Start of a pod: the installed program from its spawn
to the end of its output, a server left behind it. Start of a member: the same without a server. Served: from
the spawn until the server has answered a first call, which containerd makes at once. All are taken in turn in
one run, so that what else the machine does weighs on each. The budget for a pod's start is floor + 150 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sealpod.wire.taskapi import MESSAGES, TASK
from sealpod.wire.ttrpc import HEADER_SIZE, REQUEST, Frame, Request, encode_frame

BUDGET = 0.150  # seconds over the floor
PROGRAM = "containerd-shim-kata-qemu-sev-v2"
MEMBER = {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "pod"}
CONNECT = Request(TASK, "Connect", MESSAGES.new("ConnectRequest", id="pod").encode())


class Stage:
    """A bundle and the directories that the shim is pointed to."""

    def __init__(self, home: Path, program: str) -> None:
        self.bundle = home / "bundle"
        self.bundle.mkdir()
        self._command = [program, *f"-namespace n -address {home}/c.sock -publish-binary x -id pod".split()]
        self._environment = {
            **os.environ,
            "SEALPOD_SHIM_SOCKETS": str(home / "s"),
            "SEALPOD_RUN_DIR": str(home / "run"),
        }

    def configure(self, annotations: dict[str, str]) -> None:
        """Whose container the bundle is."""
        # As large as a real one: mounts, capabilities and seccomp rules are read and skipped.
        filling = [{"names": [f"call{number}"], "action": "SCMP_ACT_ALLOW"} for number in range(400)]
        text = json.dumps({"annotations": annotations, "linux": {"seccomp": {"syscalls": filling}}})
        (self.bundle / "config.json").write_text(text)

    def start(self) -> str:
        """Run ``start``; the socket it printed."""
        done = subprocess.run(
            [*self._command, "start"],
            cwd=self.bundle,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            text=True,
        )
        return done.stdout.removeprefix("unix://")

    def stop(self) -> None:
        """End the server and wait for it."""
        pid = int((self.bundle / "shim.pid").read_text())
        descriptor = os.pidfd_open(pid)
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        select.select([descriptor], [], [])
        os.close(descriptor)


def first_call(path: str) -> None:
    """One call, answered."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(encode_frame(Frame(1, REQUEST, CONNECT.encode())))
        connection.recv(HEADER_SIZE)


def seconds(work: Callable[[], object]) -> float:
    """How long ``work`` takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(stage: Stage, runs: int) -> dict[str, list[float]]:
    """Seconds by name."""
    values: dict[str, list[float]] = {"floor": [], "member": [], "pod": [], "served": []}
    floor = [sys.executable, "-c", "pass"]
    for _ in range(runs):
        values["floor"].append(seconds(lambda: subprocess.run(floor, capture_output=True, check=True)))
        stage.configure(MEMBER)
        values["member"].append(seconds(stage.start))
        stage.configure({})
        begin = time.perf_counter()
        path = stage.start()
        values["pod"].append(time.perf_counter() - begin)
        first_call(path)
        values["served"].append(time.perf_counter() - begin)
        stage.stop()
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=30)
    options = parser.parse_args()
    beside = Path(sys.executable).parent / PROGRAM
    program = str(beside) if beside.exists() else shutil.which(PROGRAM)
    if program is None:
        sys.exit(f"{PROGRAM} is not installed: run `make setup`")
    with tempfile.TemporaryDirectory(prefix="sh") as directory:
        values = measure(Stage(Path(directory), program), options.runs)
    floor = statistics.median(values["floor"])
    print(f"{options.runs} runs, medians")
    for name, samples in values.items():
        median = statistics.median(samples)
        print(f"  {name:<7} {median * 1e3:7.1f} ms   floor {(median - floor) * 1e3:+7.1f} ms")
    over = statistics.median(values["pod"]) - floor
    verdict = "kept" if over <= BUDGET else "MISSED"
    print(f"budget: start of a pod within floor + {BUDGET * 1e3:.0f} ms: {verdict}")


if __name__ == "__main__":
    main()
