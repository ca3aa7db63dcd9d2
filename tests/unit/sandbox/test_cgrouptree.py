# SPDX-License-Identifier: Apache-2.0
"""Which control groups a host has, from mount tables as Linux writes them (proc_pid_mountinfo(5))."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sealpod.sandbox.cgrouptree import NAMED, Hierarchy, own_directories, read_tree

# A systemd host with both versions (Debian 10), one line shortened to each kind.
HYBRID = """\
24 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 24 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/systemd rw,nosuid shared:11 - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:12 - cgroup cgroup rw,cpu,cpuacct
34 30 0:30 / /sys/fs/cgroup/memory rw,nosuid shared:13 - cgroup cgroup rw,memory
35 30 0:31 / /sys/fs/cgroup/cpuset rw,nosuid shared:14 - cgroup cgroup rw,cpuset,clone_children
36 24 0:30 / /other/place rw - cgroup cgroup rw,memory
37 30 0:40 / /sys/fs/cgroup/own rw - cgroup cgroup rw,name=mine
"""
UNIFIED = (
    "24 1 254:1 / / rw - ext4 /dev/vda1 rw\n30 24 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n"
)
# Docker's mounts of v1 in a container without a namespace of its own: subtrees.
INSIDE = "33 30 0:29 /docker/abc /sys/fs/cgroup/memory rw master:12 - cgroup cgroup rw,memory\n"


def test_version_1_counts_beside_an_empty_version_2() -> None:
    tree = read_tree(HYBRID)
    assert tree is not None
    assert tree.version == 1
    assert [one.controllers for one in tree.hierarchies] == [
        (NAMED,),
        ("cpu", "cpuacct"),
        ("memory",),
        ("cpuset",),
    ]
    memory = tree.of("memory")
    assert memory is not None
    assert memory.directory("/a/b") == "/sys/fs/cgroup/memory/a/b"
    assert tree.of("pids") is None


def test_version_2_alone() -> None:
    tree = read_tree(UNIFIED)
    assert tree is not None
    assert (tree.version, [one.mount for one in tree.hierarchies]) == (2, ["/sys/fs/cgroup"])
    assert tree.of("memory") is tree.hierarchies[0]


def test_version_2_counts_beside_systemds_name() -> None:
    lines = [line for line in HYBRID.splitlines() if "cgroup2" in line or "name=systemd" in line]
    tree = read_tree("\n".join(lines))
    assert tree is not None
    assert tree.version == 2


def test_a_host_without() -> None:
    assert read_tree("24 1 254:1 / / rw - ext4 /dev/vda1 rw\n") is None
    assert read_tree("") is None


def test_paths_are_escaped() -> None:
    tree = read_tree("30 24 0:26 / /a\\040b\\134c rw - cgroup2 cgroup2 rw\n")
    assert tree is not None
    assert tree.hierarchies[0].mount == "/a b\\c"


def test_where_a_process_is() -> None:
    tree = read_tree(HYBRID)
    assert tree is not None
    text = "4:cpuacct,cpu:/system.slice/containerd.service\n3:memory:/x:y\n1:name=systemd:/z\n0::/\n"
    assert own_directories(tree, text) == (
        "/sys/fs/cgroup/systemd/z",
        "/sys/fs/cgroup/cpu,cpuacct/system.slice/containerd.service",
        "/sys/fs/cgroup/memory/x:y",
        "/sys/fs/cgroup/cpuset",
    )


def test_where_a_process_is_of_a_subtree() -> None:
    tree = read_tree(INSIDE)
    assert tree is not None
    for path, place in (("/docker/abc/d", "/d"), ("/docker/abc", ""), ("/docker/abcd", ""), ("/", "")):
        assert own_directories(tree, f"3:memory:{path}\n") == (f"/sys/fs/cgroup/memory{place}",)


def test_the_root_is_its_mount() -> None:
    assert Hierarchy("/m", "/", ()).directory("/") == "/m"


@given(st.text(max_size=200), st.text(max_size=200))
def test_no_table_is_an_obstacle(mounts: str, groups: str) -> None:
    for text in (mounts, HYBRID + mounts):
        tree = read_tree(text)
        if tree is not None:
            assert len(own_directories(tree, groups)) == len(tree.hierarchies)
