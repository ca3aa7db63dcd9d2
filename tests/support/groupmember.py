# SPDX-License-Identifier: Apache-2.0
"""A process that enters a pod's control groups as a shim does, for tests to look at.

``python groupmember.py PROC CGROUPS_PATH ID ONLY``: says a JSON line for each step, and goes on to the next
when it reads a line. ``PROC`` is a directory with the mount table (``mountinfo``) and the groups of this
process (``cgroup``) it is to believe.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from sealpod.errors import SealpodError
from sealpod.qemu.process import spawn
from sealpod.sandbox.podcgroup import pod_cgroup

SLEEP = ("/bin/sh", "-c", "echo runs >&2; exec sleep 1000")


def groups(pid: int) -> dict[str, str]:
    """Path by controllers."""
    with open(f"/proc/{pid}/cgroup", encoding="ascii") as source:
        return {line.split(":")[1]: line.rstrip("\n").split(":", 2)[2] for line in source}


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)
    sys.stdin.readline()


async def main(proc: str, path: str, sandbox: str, only: bool) -> None:
    group = pod_cgroup(path, sandbox, only=only, proc=proc)
    try:
        group.enter()
    except SealpodError as error:
        say(error=error.code, text=error.message, shim=groups(os.getpid()))
        return
    qemu = await spawn(SLEEP, cgroup=group.qemu_directory)
    helper = await spawn(SLEEP)
    for process in (qemu, helper):
        assert process.stderr is not None
        await process.stderr.readline()
    group.place((qemu.pid,))
    members = {"shim": os.getpid(), "qemu": qemu.pid, "helper": helper.pid}
    say(directories=group.directories, **{name: groups(pid) for name, pid in members.items()})
    left = group.close()
    say(left=left, shim=groups(os.getpid()), ended=[await qemu.wait(), await helper.wait()])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4] == "true"))
