# SPDX-License-Identifier: Apache-2.0
"""A pod's control groups on this kernel: a process enters them, its children are there, nothing stays.

Version 1 is tested where this host has it. Version 2 is tested wherever it is mounted, be it without
controllers. Limits: test_cgroup_host.py and test_pod_cgroups.py of the end-to-end tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sealpod.errors import DecodeError, OperationError
from sealpod.sandbox import cgroupfs, cleanup, podcgroup, state
from sealpod.sandbox.cgroupplan import plan
from sealpod.sandbox.cgrouptree import read_tree

SUPPORT = Path(__file__).parents[2] / "support"
MOUNTS = Path("/proc/self/mountinfo").read_text()
UNIFIED = "".join(line for line in MOUNTS.splitlines(keepends=True) if " - cgroup2 " in line)
KILLED = -signal.SIGKILL


@pytest.fixture(params=[1, 2])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A directory with mount table and own groups, as a host of that version has them, and a pod's group."""
    mounts = MOUNTS if request.param == 1 else UNIFIED
    tree = read_tree(mounts)
    if tree is None or tree.version != request.param:
        pytest.skip(f"cgroup v{request.param} is not mounted here")
    if os.geteuid() != 0 or not all(os.access(one.mount, os.W_OK) for one in tree.hierarchies):
        pytest.skip("needs root and writable control groups")
    (tmp_path / "mountinfo").write_text(mounts)
    (tmp_path / "cgroup").write_text(Path("/proc/self/cgroup").read_text())
    pod = f"/sealpod-test-{secrets.token_hex(4)}"
    try:
        yield str(tmp_path), pod
    finally:
        left = [
            os.path.join(where, name)
            for one in tree.hierarchies
            for top in (f"{one.mount}{pod}", f"{one.mount}/kata_overhead/{pod[1:]}")
            for where, names, _ in os.walk(top, topdown=False)
            for name in (*names, "")
        ]
        groups = [path for path in left if path.rstrip("/").rsplit("/", 1)[-1] != pod[1:]]
        assert not groups
        cgroupfs.remove(path.rstrip("/") for path in left)


@contextlib.contextmanager
def member(host: tuple[str, str], only: bool) -> Iterator[subprocess.Popen[str]]:
    proc, pod = host
    words = (proc, f"{pod}/ID", pod[1:], "true" if only else "false")
    with subprocess.Popen(
        [sys.executable, str(SUPPORT / "groupmember.py"), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def step(process: subprocess.Popen[str]) -> Any:
    """What it says next; it then waits for :func:`go_on`."""
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def version(host: tuple[str, str]) -> int:
    tree = read_tree(Path(host[0], "mountinfo").read_text())
    assert tree is not None
    return tree.version


def named(found: dict[str, str], host: tuple[str, str]) -> set[str]:
    """The paths of a process in the hierarchies that count."""
    return {path for names, path in found.items() if bool(names) == (version(host) == 1)}


@pytest.mark.parametrize("only", [True, False])
def test_a_shim_and_its_children(host: tuple[str, str], only: bool) -> None:
    own, (_, pod) = Path("/proc/self/cgroup").read_text(), host
    sandbox, overhead = f"{pod}/kata_ID", f"/kata_overhead/{pod[1:]}"
    with member(host, only) as process:
        seen = step(process)
        assert named(seen["shim"], host) == {sandbox if only else overhead}
        assert named(seen["helper"], host) == {sandbox if only else overhead}
        # Of version 1 it is a thread that was moved, of version 2 the whole of QEMU started there.
        assert named(seen["qemu"], host) == {sandbox}
        assert all(map(os.path.isdir, seen["directories"]))
        go_on(process)
        closed = step(process)
        assert closed["left"] == []
        assert closed["ended"] == [KILLED, KILLED]
        assert sorted(closed["shim"].values()) == sorted(line.split(":", 2)[2] for line in own.splitlines())
        assert not any(map(os.path.exists, seen["directories"]))


@pytest.mark.parametrize("only", [True, False])
def test_a_shim_is_killed_and_somebody_cleans_up(
    host: tuple[str, str], only: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(state.ENVIRONMENT, str(tmp_path / "run"))
    with member(host, only) as process:
        seen = step(process)
        sandbox = state.SandboxState("killed")
        sandbox.create()
        sandbox.write({"cgroups": {"directories": seen["directories"]}})
        process.kill()
        cleanup.clean_up("killed")
        assert not any(map(os.path.exists, seen["directories"]))
        assert state.sandbox_ids() == []


def test_groups_that_cannot_be_made(host: tuple[str, str]) -> None:
    proc, pod = host
    own = Path("/proc/self/cgroup").read_text()
    # A group may not be named like one of its parent's files.
    with member((proc, f"{pod}/cgroup.procs"), True) as process:
        seen = step(process)
        assert seen["error"] == "cgroup.failed"
        assert "cgroup.procs" in seen["text"]
        assert sorted(seen["shim"].values()) == sorted(line.split(":", 2)[2] for line in own.splitlines())


def test_a_host_without_control_groups(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text("24 1 254:1 / / rw - ext4 /dev/vda1 rw\n")
    with pytest.raises(OperationError) as error:
        podcgroup.pod_cgroup("/a/b", "b", only=True, proc=str(tmp_path))
    assert error.value.code == "cgroup.failed"


def test_what_is_no_control_group_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    assert cgroupfs.remove([str(tmp_path / "kept"), str(tmp_path / "none")]) == []
    assert (tmp_path / "kept").is_dir()


def test_controllers_are_passed_on_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, str]] = []

    def refusing(path: str, text: str) -> None:
        written.append((path.removeprefix(str(tmp_path)), text))
        if text == "+cpu":
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(cgroupfs, "write", refusing)
    (tmp_path / "cgroup.controllers").write_text("cpu memory rdma\n")
    cgroupfs.make(str(tmp_path), f"{tmp_path}/a/b", enable=True)
    assert (tmp_path / "a/b").is_dir()
    file = "/cgroup.subtree_control"
    assert written == [(file, "+cpu"), (file, "+memory")]


async def entering(path: str, *, only: bool) -> tuple[podcgroup.PodCgroup | None, tuple[str, ...], int]:
    """What comes of it, and how often it was noted before the groups were made."""
    noted: list[podcgroup.PodCgroup] = []
    async with contextlib.AsyncExitStack() as scope:
        group, told = await podcgroup.enter_pod_cgroup(path, "ID", only=only, scope=scope, note=noted.append)
        return group, told, len(noted)


class Unusable(podcgroup.PodCgroup):
    """Groups of a host that does not let anybody make them."""

    def _make(self) -> None:
        raise PermissionError(30, "Read-only file system", "/sys/fs/cgroup/kata_ID")


def test_limits_that_are_to_hold_are_not_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podcgroup, "PodCgroup", Unusable)
    monkeypatch.setattr(podcgroup, "remove", lambda *_: [])
    with pytest.raises(OperationError, match="kata_ID: Read-only file system") as error:
        asyncio.run(entering("/pod/ID", only=True))
    assert error.value.code == "cgroup.failed"
    group, (told,), noted = asyncio.run(entering("/pod/ID", only=False))
    assert (group, noted) == (None, 1)
    assert told.startswith("the pod is not counted in its control group: ")
    assert told.endswith("[cgroup.failed]")


def test_a_pod_for_which_no_group_is_named() -> None:
    assert asyncio.run(entering("", only=False)) == (None, (), 0)
    group, (told,), _ = asyncio.run(entering("", only=True))
    assert group is None
    assert "none of its limits holds" in told


def test_a_name_that_is_none_is_refused_either_way() -> None:
    for only in (True, False):
        with pytest.raises(DecodeError) as error:
            asyncio.run(entering("/a/../b", only=only))
        assert error.value.code == "cgroup.path"


def test_a_host_without_a_limits_controller_says_so() -> None:
    tree = read_tree("30 24 0:26 / /c rw - cgroup cgroup rw,cpu\n")
    assert tree is not None
    group = podcgroup.PodCgroup(plan(tree, "/a/ID", "ID", only=True), ("/c",))
    assert group.warnings() == ("this host has no control groups for memory: no such limit of a pod holds",)
    assert group.killed_for_memory() is None


def test_the_machine_runs_where_its_containers_may(tmp_path: Path) -> None:
    tree = read_tree(f"30 24 0:26 / {tmp_path} rw - cgroup cgroup rw,cpuset\n")
    assert tree is not None
    group = podcgroup.PodCgroup(plan(tree, "/ID", "ID", only=False), ("/c",))
    (tmp_path / "kata_ID").mkdir()
    cpus, mems = (tmp_path / "kata_ID" / name for name in cgroupfs.CPUSET)

    def confined(owner: str, *lists: str) -> tuple[str, str]:
        cpus.write_text("")
        mems.write_text("")
        group.confine(owner, *lists)
        return cpus.read_text(), mems.read_text()

    assert confined("pod", "", "") == ("", "")
    assert confined("a", "4-5", "0") == ("4-5", "0")
    assert confined("b", "1,6", "") == ("1,4-6", "0")
    assert confined("a", "2", "1") == ("1-2,6", "1")
    assert confined("a", "", "") == ("1,6", "")
    assert confined("b", "", "") == ("", "")
    with pytest.raises(DecodeError):
        group.confine("c", "x", "")
    cpus.unlink()
    cpus.mkdir()
    with pytest.raises(OperationError) as error:
        group.confine("c", "1", "")
    assert error.value.code == "cgroup.failed"
    cpus.rmdir()
    # A host of version 2 whose groups have no such controller.
    group.confine("d", "3", "")
