# SPDX-License-Identifier: Apache-2.0
"""Whose memory limit killed a machine, from trees of files as the kernel has them (cgroups(7))."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealpod.sandbox.hostmemory import CODE, Limit, killed, kills, limit_hit

NO_LIMIT = 9223372036854771712  # v1's word for none, 2**63 less a page


def group(directory: Path, version: int, limit: int | None, hits: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    if version == 2:
        (directory / "memory.max").write_text(f"{limit or 'max'}\n")
        (directory / "memory.events.local").write_text(f"low 0\nhigh 0\nmax 90\noom {hits}\noom_kill 0\n")
    else:
        (directory / "memory.limit_in_bytes").write_text(f"{limit or NO_LIMIT}\n")
        (directory / "memory.failcnt").write_text(f"{hits}\n")


@pytest.mark.parametrize("version", [1, 2])
def test_the_nearest_limit_that_was_hit(tmp_path: Path, version: int) -> None:
    for path, limit, hits in (("a", 1 << 30, 3), ("a/pod", 512 << 20, 2), ("a/pod/kata_x", None, 0)):
        group(tmp_path / path, version, limit, hits)
    leaf = str(tmp_path / "a/pod/kata_x")
    assert limit_hit(str(tmp_path), leaf, version) == Limit("/a/pod", 512 << 20)
    group(tmp_path / "a/pod", version, 512 << 20, 0)
    assert limit_hit(str(tmp_path), leaf, version) == Limit("/a", 1 << 30)
    group(tmp_path / "a", version, None, 5)
    assert limit_hit(str(tmp_path), leaf, version) is None


def test_a_host_without_memory_controller(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for version in (1, 2):
        assert kills(str(tmp_path / "a"), version) == 0
        assert limit_hit(str(tmp_path), str(tmp_path / "a"), version) is None


def test_kills_are_counted(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("low 0\noom 4\noom_kill 2\noom_group_kill 7\n")
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert (kills(str(tmp_path), 2), kills(str(tmp_path), 1)) == (2, 1)
    (tmp_path / "memory.events").write_text("oom_kill\nx\noom_kill many\n")
    assert kills(str(tmp_path), 2) == 0


@pytest.mark.parametrize(
    ("limit", "text", "remedy"),
    [
        (
            Limit("/kubepods/pod1", 512 << 20),
            "limit of the pod killed QEMU (512 MiB, /kubepods/pod1)",
            "Runtime",
        ),
        (Limit("/kata_overhead", 1 << 30), "of its overhead's group killed QEMU (1024 MiB", "/kata_overhead"),
        (None, "the host ran out of memory and killed QEMU", "too little memory"),
    ],
)
def test_what_is_said(limit: Limit | None, text: str, remedy: str) -> None:
    error = killed(limit, ("last",))
    assert (error.code, error.console) == (CODE, ("last",))
    assert text in error.message
    assert remedy in error.remedy
