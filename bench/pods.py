# SPDX-License-Identifier: Apache-2.0
"""Pods under containerd against their floors. Prints figures; asserts nothing. Needs root, as pods do.

* **start**: from RunPodSandbox to StartContainer's return, the pull included, for a plain and an attested
  pod. Floor: the same guest booting straight to a script that prints one line (``rdinit=/floor``).
* **shim**: resident memory with one container, and processor time while nothing happens.
* **exec**: ExecSync of ``true``, and the same on runc, whose containers are processes of the host.
* **log**: a container's output until containerd has all of it in the log, and the same on runc.
* **several**: eight pods asked for at once, until the last container runs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from criclient import CriClient, Pod, wait_for_log
from podimages import CONFIDENTIAL, PodLab, pod_lab

from sealpod.guestimage.cache import cache_directory
from sealpod.qemu.machine import Machine
from sealpod.sandbox.host import HostOptions, open_host
from sealpod.sandbox.launch import launch_guest
from sealpod.sandbox.podsettings import pod_settings
from sealpod.sandbox.timeline import Observation, Timeline

FLOOR_LINE = "sealpod: floor"
SLEEP = ("sleep", "100000")
KINDS = {"plain": ("kata-qemu", "plain"), "attested": (CONFIDENTIAL, "encrypted")}
IDLE_SECONDS = 10.0
LOG_BYTES = 50_000_000
EXECS = 20
SEVERAL = 8
MIB = 1 << 20


async def floor(handler: str, config: str, state: str) -> float:
    """One boot to one line, of the guest a handler's pods get."""
    settings = pod_settings(handler, config, {}, user_network=False)
    spec = replace(settings.spec(), kbc="none", kbs="", cmdline=f"{settings.cmdline} rdinit=/floor")
    options = HostOptions(
        cache_directory(),
        platform="auto" if settings.kata.confidential_guest else "none",
        platform_state=state,
    )
    reached = asyncio.Event()
    waiting: list[asyncio.Task[None]] = []

    async def watch(line: asyncio.Event) -> None:
        await line.wait()
        reached.set()

    async def started(machine: Machine) -> None:
        waiting.append(asyncio.create_task(watch(machine.console.watch(FLOOR_LINE))))

    async def boot() -> None:
        async with launch_guest(host, spec, Observation(Timeline()), started=started):
            pass

    async with open_host(options, lambda _note: None) as host:
        begin = time.monotonic()
        booting = asyncio.create_task(boot())
        line = asyncio.create_task(reached.wait())
        await asyncio.wait((line, booting), return_when=asyncio.FIRST_COMPLETED)
        if not line.done():
            line.cancel()
            await booting  # its error
        seconds = time.monotonic() - begin
        booting.cancel()
        await asyncio.gather(booting, *waiting, return_exceptions=True)
    return seconds


def start(lab: PodLab, handler: str, tag: str) -> tuple[Pod, str]:
    """A pod with a container that sleeps."""
    cri = lab.host.cri
    pod = cri.run_pod(handler, lab.host.logs)
    return pod, cri.run(pod, lab.image(tag), *SLEEP)


def timed(action: Callable[[], object]) -> float:
    """Seconds it takes."""
    begin = time.monotonic()
    action()
    return time.monotonic() - begin


def starts(lab: PodLab, runs: int) -> None:
    """Both kinds of pods, in turn with their floors."""
    for name, (handler, tag) in KINDS.items():
        floors, pods = [], []
        for _ in range(runs):
            config = f"{lab.host.directory}/kata/{handler}.toml"
            floors.append(asyncio.run(floor(handler, config, lab.platform)))
            pods.append(timed(lambda handler=handler, tag=tag: start(lab, handler, tag)))  # type: ignore[misc]
            lab.host.clear()
        base, pod = statistics.median(floors), statistics.median(pods)
        print(f"start, {name:<9} {pod:6.2f} s  floor {base:5.2f} s, x {pod / base:.2f}, + {pod - base:.2f} s")


def shim(lab: PodLab) -> None:
    """What a pod's shim costs while nothing happens."""
    pod, container = start(lab, "kata-qemu", "plain")
    lab.host.cri.read(container, "true")
    task = f"{lab.host.directory}/state/io.containerd.runtime.v2.task/k8s.io/{pod.id}"
    pid = int(Path(f"{task}/shim.pid").read_text())
    before = processor_seconds(pid)
    time.sleep(IDLE_SECONDS)
    busy = processor_seconds(pid) - before
    memory = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB
    print(f"shim, resident   {memory:6.1f} MiB  budget 60 MiB")
    print(f"shim, idle       {100 * busy / IDLE_SECONDS:6.2f} %    of a processor, over {IDLE_SECONDS:g} s")


def processor_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def exec_time(cri: CriClient, container: str) -> float:
    """Median round trip."""
    return statistics.median(timed(lambda: cri.read(container, "true")) for _ in range(EXECS))


def log_rate(cri: CriClient, lab: PodLab, pod: Pod) -> float:
    """MB/s from the container's first byte to the last in containerd's log."""
    script = f'echo begin; yes "$(printf %0999d 7)" | head -c {LOG_BYTES}; echo; echo end'
    cri.run(pod, lab.image("plain"), "sh", "-c", script, name="log")
    wait_for_log(pod, "begin", "log")
    begin = time.monotonic()
    path = Path(pod.logs, "log.log")
    while path.stat().st_size < LOG_BYTES or not path.read_bytes()[-200:].endswith(b" end\n"):
        time.sleep(0.05)
    return LOG_BYTES / 1e6 / (time.monotonic() - begin)


def several(lab: PodLab) -> None:
    """Pods asked for at once."""
    with ThreadPoolExecutor(SEVERAL) as pool:
        alone = timed(lambda: start(lab, "kata-qemu", "plain"))
        lab.host.clear()
        begin = time.monotonic()
        list(pool.map(lambda _: start(lab, "kata-qemu", "plain"), range(SEVERAL)))
        seconds = time.monotonic() - begin
    available = int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) / MIB
    print(f"{SEVERAL} at once        {seconds:6.2f} s  one alone {alone:.2f} s, x {seconds / alone:.2f}")
    print(f"memory left then {available:6.1f} GiB")
    lab.host.clear()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3, help="samples of each start (default: 3)")
    runs = parser.parse_args().runs
    with pod_lab(snapshotter="overlayfs") as lab:
        pod, container = start(lab, "runc", "plain")
        base_exec, base_log = exec_time(lab.host.cri, container), log_rate(lab.host.cri, lab, pod)
    with pod_lab() as lab:
        starts(lab, runs)
        shim(lab)
        lab.host.clear()
        pod, container = start(lab, "kata-qemu", "plain")
        seconds = exec_time(lab.host.cri, container)
        ratio = seconds / base_exec
        print(f"exec             {1000 * seconds:6.1f} ms  runc {1000 * base_exec:.1f} ms, x {ratio:.2f}")
        rate = log_rate(lab.host.cri, lab, pod)
        print(f"log              {rate:6.1f} MB/s  runc {base_log:.1f} MB/s, x {rate / base_log:.2f}")
        lab.host.clear()
        several(lab)


if __name__ == "__main__":
    main()
