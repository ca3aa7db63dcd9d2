# SPDX-License-Identifier: Apache-2.0
"""The control groups of one pod on this host: made before anything of the pod runs, removed after all of it.

The shim enters first, so that what it starts is there from its first byte. At the end it goes back to where
containerd had started it, since a group with processes cannot be removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable
from typing import Final

from sealpod.errors import OperationError, SealpodError
from sealpod.sandbox import cgroupfs, hostmemory
from sealpod.sandbox.cgroupplan import Plan, plan
from sealpod.sandbox.cgrouptree import own_directories, read_tree
from sealpod.sandbox.cpuset import union
from sealpod.sandbox.finish import to_its_end
from sealpod.sandbox.groupcleanup import remove
from sealpod.sandbox.systemdscope import HeldScope

LIMITED: Final = ("cpu", "memory")
"""Controllers that kubelet's limits of a pod need."""
_PROC: Final = "/proc/self"

_logger = logging.getLogger(__name__)


class PodCgroup:
    """One pod's groups. Make it, :meth:`enter`, start QEMU, :meth:`place`, and in the end :meth:`close`."""

    def __init__(self, plan: Plan, origin: tuple[str, ...]) -> None:
        self.plan = plan
        self._origin = origin
        self._scope: HeldScope | None = None
        self._entered = False
        self._confined: dict[str, tuple[str, str]] = {}

    @property
    def directories(self) -> tuple[str, ...]:
        """All that :meth:`enter` makes and :meth:`close` removes."""
        return tuple(one.directory(path) for one, path in self.plan.places)

    @property
    def qemu_directory(self) -> str:
        """Where QEMU is started; empty: where the shim is."""
        return "" if self.plan.qemu == self.plan.shim else self.plan.directories(self.plan.qemu)[0]

    def enter(self) -> None:
        """Make the groups and enter the shim's.

        :raise OperationError: they cannot be made (``cgroup.failed``, ``cgroup.systemd``); none is left then.
        """
        try:
            self._make()
            self._entered = True
            for directory in self.plan.directories(self.plan.shim):
                cgroupfs.join(directory, os.getpid())
            if not self.plan.overhead:
                self._release()
        except OSError as error:
            self.close()
            raise _refused(error) from error
        except SealpodError:
            self.close()
            raise

    def place(self, threads: Iterable[int]) -> None:
        """QEMU runs, with these threads as its virtual processors. OperationError (``cgroup.failed``)."""
        try:
            if self.plan.moves_threads:
                for directory in self.plan.directories(self.plan.sandbox):
                    for thread in threads:
                        cgroupfs.join(directory, thread, file=cgroupfs.TASKS)
        except OSError as error:
            raise _refused(error) from error
        self._release()

    def confine(self, owner: str, cpus: str, mems: str) -> None:
        """Where ``owner``, a container, may run; empty: anywhere, or it is gone.

        The pod's group gets what its containers have together, as in Kata, and keeps it when none has any.

        :raise OperationError: the group may not have them (``cgroup.failed``).
        :raise DecodeError: what is given is no list (``cgroup.cpus``).
        """
        wanted = {**self._confined, owner: (cpus, mems)}
        if not (cpus or mems):
            del wanted[owner]
        lists = [union(one[index] for one in wanted.values()) for index in range(len(cgroupfs.CPUSET))]
        if (place := self.plan.tree.of("cpuset")) is not None:
            directory = place.directory(self.plan.sandbox)
            try:
                for name, text in zip(cgroupfs.CPUSET, lists, strict=True):
                    if text and os.path.exists(f"{directory}/{name}"):
                        cgroupfs.write(f"{directory}/{name}", text)
            except OSError as error:
                raise _refused(error) from error
        self._confined = wanted

    def killed_for_memory(self, console: tuple[str, ...] = ()) -> SealpodError | None:
        """What to say when the kernel has killed processes of the pod for memory; None when it has not."""
        memory = self.plan.tree.of("memory")
        if memory is None:
            return None
        version, directory = self.plan.tree.version, memory.directory(self.plan.qemu)
        if not hostmemory.kills(directory, version):
            return None
        return hostmemory.killed(hostmemory.limit_hit(memory.mount, directory, version), console)

    def close(self) -> list[str]:
        """Leave and remove the groups, and end whoever is still there; what stays. Idempotent."""
        self._release()
        if self._entered:
            self._entered = False
            for one, directory in zip(self.plan.tree.hierarchies, self._origin, strict=True):
                # The group we came from may be gone; a hierarchy's root takes everyone.
                for place in (directory, one.mount):
                    with contextlib.suppress(OSError):
                        cgroupfs.join(place, os.getpid())
                        break
        return remove(self.directories, self.plan.scope.unit if self.plan.scope is not None else "")

    def record(self) -> dict[str, object]:
        """For ``sealpod sandbox inspect``, and for whoever cleans up after us."""
        return {
            "version": self.plan.tree.version,
            "sandbox": self.plan.sandbox,
            "overhead": self.plan.overhead,
            "directories": list(self.directories),
            "unit": self.plan.scope.unit if self.plan.scope is not None else "",
        }

    def warnings(self) -> tuple[str, ...]:
        """Limits of the pod that will not hold."""
        absent = [one for one in LIMITED if not _has(self.plan, one)]
        names = " and ".join(absent)
        return (
            (f"this host has no control groups for {names}: no such limit of a pod holds",) if absent else ()
        )

    def _make(self) -> None:
        if self.plan.scope is not None:
            self._scope = HeldScope(self.plan.scope)
        for one, path in self.plan.places:
            # What is above a scope is systemd's own.
            own = self.plan.scope is None or path == self.plan.overhead
            cgroupfs.make(one.mount, one.directory(path), enable=self.plan.tree.version == 2 and own)

    def _release(self) -> None:
        if self._scope is not None:
            self._scope.release()
            self._scope = None


def pod_cgroup(cgroups_path: str, sandbox_id: str, *, only: bool, proc: str = _PROC) -> PodCgroup:
    """The groups of a pod on this host, not yet made.

    :raise OperationError: there are no control groups here (``cgroup.failed``).
    :raise DecodeError: ``cgroups_path`` is none (``cgroup.path``).
    """
    tree = read_tree(cgroupfs.read_whole(f"{proc}/mountinfo"))
    if tree is None:
        raise OperationError(
            "no control groups are mounted here", code="cgroup.failed", remedy="mount /sys/fs/cgroup"
        )
    origin = own_directories(tree, cgroupfs.read_whole(f"{proc}/cgroup"))
    return PodCgroup(plan(tree, cgroups_path, sandbox_id, only=only), origin)


async def enter_pod_cgroup(
    cgroups_path: str,
    sandbox_id: str,
    *,
    only: bool,
    scope: contextlib.AsyncExitStack,
    note: Callable[[PodCgroup], None],
) -> tuple[PodCgroup | None, tuple[str, ...]]:
    """Enter a pod's groups for the length of ``scope``: the groups, and what is to be told.

    ``note`` is told of them before they are made. Groups that cannot be made are an error when limits are to
    hold for all of the pod (``only``); otherwise the pod is merely not counted, as the second value says.
    """
    if not cgroups_path:
        text = "containerd names no control group for the pod: none of its limits holds for its machine"
        return None, (text,) if only else ()
    try:
        group = pod_cgroup(cgroups_path, sandbox_id, only=only)
        note(group)
        scope.push_async_callback(_close, group)
        await to_its_end(asyncio.to_thread(group.enter))
    except OperationError as error:
        if only:
            raise
        return None, (f"the pod is not counted in its control group: {error.one_line()}",)
    return group, group.warnings()


async def _close(group: PodCgroup) -> None:
    if left := await asyncio.to_thread(group.close):
        _logger.warning("control groups that could not be removed: %s", " ".join(left))


def _has(plan: Plan, controller: str) -> bool:
    if plan.tree.version == 1:
        return plan.tree.of(controller) is not None
    offered = cgroupfs.read(f"{plan.tree.hierarchies[0].mount}/cgroup.controllers") or ""
    return controller in offered.split()


def _refused(error: OSError) -> OperationError:
    return OperationError(
        f"the pod's control group cannot be used: {error.filename or ''}: {error.strerror}",
        code="cgroup.failed",
        remedy="see that /sys/fs/cgroup is mounted read-write for containerd",
    )
