# SPDX-License-Identifier: Apache-2.0
"""Pods' control groups on cgroup v2 with its controllers, for :mod:`kernelhost`; prints what was seen.

A program that takes memory without end stands for QEMU.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from sealpod.agent import syscalls
from sealpod.qemu.process import spawn
from sealpod.sandbox.podcgroup import PodCgroup, pod_cgroup

ROOT = "/sys/fs/cgroup"
POD = "/kubepods/pod1"
LIMIT = 64 << 20
EATER = (sys.executable, "-c", "kept = []\nwhile True: kept.append(bytearray(1 << 20))")
IDLE = ("/bin/sh", "-c", "echo runs >&2; read -r _ < /fifo")


def own(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::")


def entered(only: bool) -> PodCgroup:
    group = pod_cgroup(f"{POD}/ID", "ID", only=only)
    group.enter()
    return group


async def eaten(only: bool) -> dict[str, Any]:
    """QEMU takes more than the pod may have."""
    group = entered(only)
    qemu = await spawn(EATER, cgroup=group.qemu_directory)
    status = await qemu.wait()
    error = group.killed_for_memory(("last line",))
    usage = int(Path(f"{ROOT}{POD}/memory.peak").read_text())
    found = {"status": status, "shim": own(os.getpid()), "peak": usage, "left": group.close()}
    if error is not None:
        found |= {"code": error.code, "text": error.message, "remedy": error.remedy}
    return found


async def calm() -> dict[str, Any]:
    """QEMU ends by itself, a guest's end as any other."""
    group = entered(False)
    qemu = await spawn(IDLE, cgroup=group.qemu_directory)
    assert qemu.stderr is not None
    await qemu.stderr.readline()
    where = {"shim": own(os.getpid()), "qemu": own(qemu.pid)}
    files = sorted(os.listdir(f"{ROOT}{POD}/kata_ID"))
    qemu.kill()
    await qemu.wait()
    told = group.killed_for_memory() is not None
    warnings = group.warnings()
    group.close()
    return {**where, "counted": "memory.current" in files, "told": told, "warnings": warnings}


def main() -> None:
    os.mkfifo("/fifo")
    syscalls.mount("cgroup2", ROOT, "cgroup2")
    os.makedirs(f"{ROOT}{POD}")
    for directory in (ROOT, f"{ROOT}/kubepods"):
        Path(f"{directory}/cgroup.subtree_control").write_text("+memory +cpu +pids")
    Path(f"{ROOT}{POD}/memory.max").write_text(str(LIMIT))
    found = {
        "only": asyncio.run(eaten(True)),
        "parted": asyncio.run(eaten(False)),
        "calm": asyncio.run(calm()),
        "back": own(os.getpid()),
        "stays": sorted(os.path.relpath(where, ROOT) for where, _, _ in os.walk(ROOT)),
    }
    print(f"RESULT {json.dumps(found)}", flush=True)


main()
