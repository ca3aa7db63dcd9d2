# SPDX-License-Identifier: Apache-2.0
"""kubelet's part of control groups: a pod's own, with its limits, which the runtime is told of."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from sealpod.sandbox import cgroupfs
from sealpod.sandbox.cgrouptree import Tree, read_tree


def tree() -> Tree | None:
    """This host's control groups; None when there are none, or none that can be made."""
    found = read_tree(Path("/proc/self/mountinfo").read_text())
    writable = found is not None and all(os.access(one.mount, os.W_OK) for one in found.hierarchies)
    return found if writable and os.geteuid() == 0 else None


WEIGHT = 8
"""Of all pods together, in processes outside of groups."""


def weigh(*paths: str) -> None:
    """As kubelet does by the node's size: a group counts as one process beside those that are in none.

    Without it, guests stand still on a machine that is busy with other work.
    """
    if (found := tree()) is None or (place := found.of("cpu")) is None:
        return
    name, value = ("cpu.weight", 100 * WEIGHT) if found.version == 2 else ("cpu.shares", 1024 * WEIGHT)
    for path in paths:
        cgroupfs.make(place.mount, place.directory(path), enable=found.version == 2)
        with contextlib.suppress(OSError):
            cgroupfs.write(f"{place.directory(path)}/{name}", str(value))


class PodGroup:
    """The group at ``path`` in every hierarchy of ``tree``."""

    def __init__(self, tree: Tree, path: str) -> None:
        self.tree = tree
        self.path = path
        for one in tree.hierarchies:
            cgroupfs.make(one.mount, one.directory(path), enable=tree.version == 2)
        weigh(f"/{path.split('/')[1]}")

    def file(self, controller: str, name: str, below: str = "") -> Path:
        """A file of the group, or of one below it."""
        one = self.tree.of(controller)
        assert one is not None
        return Path(f"{one.directory(self.path)}{below}/{name}")

    def is_limited(self) -> bool:
        """Its memory can have a limit. In a container whose root group has processes, no group's can."""
        return self.tree.of("memory") is not None and self._limit.exists()

    def has_cpuset(self) -> bool:
        """Processors can be given to it."""
        return self.tree.of("cpuset") is not None and self.file("cpuset", "cpuset.cpus").exists()

    @property
    def _limit(self) -> Path:
        return self.file("memory", "memory.max" if self.tree.version == 2 else "memory.limit_in_bytes")

    def limit_memory(self, size: int) -> None:
        """Bytes."""
        self._limit.write_text(str(size))

    def memory(self) -> int:
        """Bytes that are charged now."""
        name = "memory.current" if self.tree.version == 2 else "memory.usage_in_bytes"
        return int(self.file("memory", name).read_text())

    def cpu(self) -> float:
        """Seconds of processor time used."""
        if self.tree.version == 2:
            text = self.file("cpu", "cpu.stat").read_text()
            return counter(text, "usage_usec") / 1e6
        return int(self.file("cpuacct", "cpuacct.usage").read_text()) / 1e9

    def below(self) -> set[str]:
        """Names of the groups in it."""
        return {
            name
            for one in self.tree.hierarchies
            for name in os.listdir(one.directory(self.path))
            if os.path.isdir(f"{one.directory(self.path)}/{name}")
        }


def counter(text: str, name: str) -> int:
    """A number of a file of lines ``name number``."""
    return next(int(line.split()[1]) for line in text.splitlines() if line.split()[0] == name)


def groups_of(pid: int, tree: Tree) -> set[str]:
    """The paths of a process, or a thread, in the hierarchies that count."""
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    wanted = {frozenset(one.controllers) for one in tree.hierarchies}
    return {path for _, names, path in lines if frozenset(filter(None, names.split(","))) in wanted}


@contextlib.contextmanager
def pod_group(tree: Tree) -> Iterator[PodGroup]:
    """A pod's group for the length of the block, in a tree of its own that goes with it."""
    top = f"/kubepods-{secrets.token_hex(4)}"
    group = PodGroup(tree, f"{top}/besteffort/pod{secrets.token_hex(8)}")
    try:
        yield group
    finally:
        for path in (group.path, f"{top}/besteffort", top):
            cgroupfs.remove(one.directory(path) for one in tree.hierarchies)
