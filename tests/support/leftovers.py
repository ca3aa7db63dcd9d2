# SPDX-License-Identifier: Apache-2.0
"""What a node's pods left on this machine: processes, mounts, interfaces, sockets, files, control groups.

Network namespaces are mounts below the node's state.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from podimages import PodLab

SECONDS = 20.0  # a guest that is killed takes a moment to be taken apart
SHARED_MEMORY = "/dev/shm"
OVERHEAD = "kata_overhead"  # which stays, as with Kata: an administrator may have limited it
OTHERS = ("PostgreSQL.",)  # which nothing of a pod is; other tests on the machine may run one


class Leftovers:
    """Compares with what there was when it was made, which should be before the first pod."""

    def __init__(self, lab: PodLab) -> None:
        self._lab = lab
        self._directory = lab.host.directory
        self._before = self._found()

    def assert_none(self, seconds: float = SECONDS) -> None:
        """Fails when something stays."""
        deadline = time.monotonic() + seconds
        while (found := self._found() - self._before) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not found, f"left behind: {sorted(found)}"

    def _found(self) -> set[str]:
        return {
            *(f"process {one}" for one in self._processes()),
            *(f"mount {one}" for one in self._mounts()),
            *(f"interface {one}" for one in self._lab.host.network.ports()),
            *(f"socket {one}" for one in self._sockets()),
            *(f"memory {one}" for one in _listed(SHARED_MEMORY) if not one.startswith(OTHERS)),
            *(f"file {one}" for one in self._files()),
            *(f"group {one}" for one in self._groups()),
        }

    def _processes(self) -> list[str]:
        """Of this site, but for the node's own; each by number and command line."""
        own = self._lab.host.own_pids
        known = {process.pid: process.command for process in self._lab.place.processes()}
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                command = (
                    Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                )
                if self._directory in command:
                    known[int(name)] = command
        children = {pid for pid in known if _parent(pid) in own and "sealpod" not in known[pid]}
        return [f"{pid} {known[pid][:200]}" for pid in known if pid not in own | children]

    def _mounts(self) -> list[str]:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return [path for path in (line.split()[4] for line in lines) if self._directory in path]

    def _sockets(self) -> set[str]:
        """Listening or not, by path; those of the node stay when it is started again."""
        own = {f"{self._directory}/{name}" for name in ("c.sock", "c.sock.ttrpc", "sn.sock")}
        lines = (line.split() for line in Path("/proc/net/unix").read_text(errors="replace").splitlines())
        paths = {fields[7] for fields in lines if len(fields) > 7}
        return {path for path in paths if self._directory in path} - own

    def _files(self) -> list[str]:
        places = ("run/sandboxes", "s", "tmp", "state/io.containerd.runtime.v2.task/k8s.io")
        places += ("root/io.containerd.runtime.v2.task/k8s.io", "state/io.containerd.grpc.v1.cri/sandboxes")
        places += ("state/io.containerd.grpc.v1.cri/containers", "state/netns")
        found = [f"{place}/{name}" for place in places for name in _listed(f"{self._directory}/{place}")]
        addresses = f"ipam/{self._lab.host.network.name}"
        names = _listed(f"{self._directory}/{addresses}")
        return found + [f"{addresses}/{name}" for name in names if name[0].isdigit()]

    def _groups(self) -> list[str]:
        """Of pods this node has had; others' may come and go meanwhile."""
        found = [
            os.path.join(where, name)
            for where, names, _ in os.walk("/sys/fs/cgroup")
            for name in names
            if name.startswith("kata_") or os.path.basename(where) == OVERHEAD
        ]
        log = self._lab.host.log() if found else ""
        names = {one: os.path.basename(one).removeprefix("kata_") for one in found}
        return [one for one, name in names.items() if name != "overhead" and name in log]


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _listed(directory: str) -> list[str]:
    return sorted(os.listdir(directory)) if os.path.isdir(directory) else []
