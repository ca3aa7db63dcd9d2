# SPDX-License-Identifier: Apache-2.0
"""Which control groups a pod's processes belong to. Pure: the pod's path, the host's tree, the configuration.

As Kata has it (its docs/design/host-cgroups.md), for the ``cgroupsPath`` of the pod's own container:

=====================  ==========================================  =================================
``cgroupsPath``        the pod's group                             what that is
=====================  ==========================================  =================================
``/kubepods/pod1/ID``  ``/kubepods/pod1/kata_ID``                  below kubelet's, which has the limits
``a-b.slice:x:ID``     ``/a.slice/a-b.slice/x-ID.scope``           a transient unit of systemd
=====================  ==========================================  =================================

``sandbox_cgroup_only = true``: all processes of the pod are in that group. False: the shim and what it starts
are in ``/kata_overhead/ID``, which nobody limits unless the administrator does, and of QEMU the threads of
the virtual processors are in the pod's group. cgroup v2 cannot part a process over both trees: there all of
QEMU is in the pod's group, which is what Kata's own moving of threads comes to.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from typing import Final

from sealpod.errors import DecodeError
from sealpod.sandbox.cgrouptree import Hierarchy, Tree

PREFIX: Final = "kata_"
OVERHEAD: Final = "/kata_overhead"
RELATIVE: Final = "/vc"
"""What a relative path is below, as in Kata."""
MAX_PATH: Final = 4096
_UNIT: Final = re.compile(r"[A-Za-z0-9:_.@\\-]{1,255}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Scope:
    """A transient unit of systemd's that is the pod's group."""

    slice: str
    unit: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The groups of one pod, as paths in every hierarchy of ``tree``."""

    tree: Tree
    sandbox: str
    """The pod's group."""
    overhead: str
    """What is not QEMU's virtual processors; empty when all is in the pod's group."""
    scope: Scope | None = None

    @property
    def shim(self) -> str:
        """The group the shim enters, and with it all that it starts."""
        return self.overhead or self.sandbox

    @property
    def qemu(self) -> str:
        """The group QEMU's memory counts in: its main thread's."""
        return self.sandbox if self.tree.version == 2 else self.shim

    @property
    def moves_threads(self) -> bool:
        """QEMU starts where the shim is, and its virtual processors are moved to the pod's group."""
        return self.qemu != self.sandbox

    @property
    def places(self) -> tuple[tuple[Hierarchy, str], ...]:
        """Hierarchy and path of each group to make."""
        paths = [path for path in (self.sandbox, self.overhead) if path]
        return tuple((one, path) for path in paths for one in self.tree.hierarchies)

    def directories(self, path: str) -> tuple[str, ...]:
        """A group's directories, one for each hierarchy."""
        return tuple(one.directory(path) for one in self.tree.hierarchies)


def plan(tree: Tree, cgroups_path: str, sandbox_id: str, *, only: bool) -> Plan:
    """The groups of the pod ``sandbox_id``; ``only`` is ``sandbox_cgroup_only``.

    :raise DecodeError: ``cgroups_path`` is none (``cgroup.path``).
    """
    if len(cgroups_path) > MAX_PATH or not cgroups_path.isprintable():
        raise _no_path(cgroups_path)
    overhead = "" if only else f"{OVERHEAD}/{sandbox_id}"
    if cgroups_path.count(":") == 2 and "/" not in cgroups_path:
        scope = _scope(cgroups_path)
        return Plan(tree, f"{expand_slice(scope.slice)}/{scope.unit}", overhead, scope)
    return Plan(tree, _renamed(cgroups_path), overhead)


def expand_slice(name: str) -> str:
    """The path of a slice: ``a-b.slice`` is in ``a.slice``. DecodeError (``cgroup.path``)."""
    stem = name.removesuffix(".slice")
    if stem == "-":
        return ""
    parts = stem.split("-")
    if not name.endswith(".slice") or not all(parts) or _UNIT.fullmatch(name) is None:
        raise _no_path(name)
    return "".join(f"/{'-'.join(parts[:count])}.slice" for count in range(1, len(parts) + 1))


def _scope(cgroups_path: str) -> Scope:
    above, prefix, name = cgroups_path.split(":")
    unit = f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    if not name or _UNIT.fullmatch(unit) is None or unit.startswith("-"):
        raise _no_path(cgroups_path)
    return Scope(above, unit)


def _renamed(path: str) -> str:
    """Kata's name for it, which keeps those who look for containers from taking the machine for one."""
    if not path.startswith("/"):
        path = f"{RELATIVE}/{path}"
    parent, name = posixpath.split(posixpath.normpath(path))
    # Nothing above may be named: what is made here is also removed.
    if not name or ".." in path.split("/"):
        raise _no_path(path)
    return posixpath.normpath(f"/{parent.strip('/')}/{PREFIX}{name}").replace("//", "/")


def _no_path(path: str) -> DecodeError:
    return DecodeError(
        f"the pod's cgroupsPath {path[:120]!r} names no control group",
        code="cgroup.path",
        remedy="see cgroup_parent of the pod, and that kubelet and containerd agree on SystemdCgroup",
    )
