# SPDX-License-Identifier: Apache-2.0
"""A control group of the machine's own version 2 hierarchy, for one test."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator

import pytest

ROOTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")


@contextlib.contextmanager
def make_cgroup(container_id: str) -> Iterator[tuple[str, str]]:
    """A directory that stands for the hierarchy's root, and the container's group in it."""
    mounted = next((path for path in ROOTS if os.path.exists(f"{path}/cgroup.procs")), None)
    if mounted is None or not os.access(mounted, os.W_OK) or os.geteuid() != 0:
        pytest.skip("needs root and cgroup v2")
    root = f"{mounted}/sealpod-test-{uuid.uuid4().hex[:12]}"
    group = f"{root}/sealpod/{container_id}"
    os.makedirs(group)
    try:
        yield root, group
    finally:
        with open(f"{root}/cgroup.kill", "w", encoding="ascii") as file:
            file.write("1")
        wait_until_empty(root)
        for directory, _, _ in os.walk(root, topdown=False):
            os.rmdir(directory)


def wait_until_empty(root: str) -> None:
    import select

    with open(f"{root}/cgroup.events", "rb", buffering=0) as events:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while b"populated 1" in os.pread(events.fileno(), 4096, 0):
            assert poll.poll(60_000), "processes stay"
