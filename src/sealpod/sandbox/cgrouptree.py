# SPDX-License-Identifier: Apache-2.0
"""This host's control groups as its mount table has them. Pure: text in, values out.

cgroup v1 has one hierarchy per controller (or few of them) and a named one of systemd's; v2 has one for all.
A host with both (``/sys/fs/cgroup/unified`` beside v1's) keeps its controllers in v1, which then counts, as
for containerd and Kata. Formats: proc_pid_mountinfo(5), cgroups(7).
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from typing import Final, Literal

NAMED: Final = "name=systemd"
_FLAGS: Final = frozenset(
    ("rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods")
)
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")  # blanks and backslashes in paths


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One tree of control groups. ``root`` is the group that is mounted at ``mount``: ``/`` for all of it."""

    mount: str
    root: str
    controllers: tuple[str, ...]
    """Of v1, ``name=systemd`` among them; empty for v2, whose files say it."""

    def directory(self, path: str) -> str:
        """Where the group at an absolute ``path`` of the hierarchy is."""
        return self.mount + posixpath.normpath(path).rstrip("/")


@dataclass(frozen=True, slots=True)
class Tree:
    """All hierarchies that count."""

    version: Literal[1, 2]
    hierarchies: tuple[Hierarchy, ...]

    def of(self, controller: str) -> Hierarchy | None:
        """The hierarchy that has ``controller``; None when v1 has none."""
        if self.version == 2:
            return self.hierarchies[0]
        return next((one for one in self.hierarchies if controller in one.controllers), None)


def read_tree(mountinfo: str) -> Tree | None:
    """The control groups of a ``/proc/self/mountinfo``; None when none are mounted."""
    first: dict[tuple[str, ...], Hierarchy] = {}
    unified = None
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if len(fields) < 6 or len(tail) < 3:
            continue
        found = Hierarchy(_plain(fields[4]), _plain(fields[3]), ())
        if tail[0] == "cgroup2":
            unified = unified or found
        elif tail[0] == "cgroup" and (controllers := _controllers(tail[2])):
            # A hierarchy may be mounted in more than one place.
            first.setdefault(controllers, Hierarchy(found.mount, found.root, controllers))
    if any(controllers != (NAMED,) for controllers in first):
        return Tree(1, tuple(first.values()))
    return Tree(2, (unified,)) if unified is not None else None


def own_directories(tree: Tree, cgroups: str) -> tuple[str, ...]:
    """Where the process of a ``/proc/PID/cgroup`` is, one directory for each hierarchy, in their order.

    A group outside of what is mounted counts as the hierarchy's root.
    """
    groups = {}
    for line in cgroups.splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        groups[frozenset(filter(None, names.split(",")))] = path
    return tuple(
        one.directory(_below(one.root, groups.get(frozenset(one.controllers), "/")))
        for one in tree.hierarchies
    )


def _below(root: str, path: str) -> str:
    if root == "/":
        return path
    return path.removeprefix(root) or "/" if path == root or path.startswith(f"{root}/") else "/"


def _controllers(options: str) -> tuple[str, ...]:
    """Of a v1 mount's super options; other names than systemd's belong to somebody else."""
    names = [one for one in options.split(",") if one not in _FLAGS]
    return tuple(one for one in names if one == NAMED or "=" not in one)


def _plain(path: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), path)
