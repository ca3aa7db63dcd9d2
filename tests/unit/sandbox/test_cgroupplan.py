# SPDX-License-Identifier: Apache-2.0
"""Which groups a pod has.

Expected paths are those of Kata (RenameCgroupPath, ValidCgroupPath, getSliceAndUnit of
src/runtime/pkg/resourcecontrol) and of systemd.slice(5).
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError
from sealpod.sandbox.cgroupplan import Scope, expand_slice, plan
from sealpod.sandbox.cgrouptree import Hierarchy, Tree

V1 = Tree(1, (Hierarchy("/c/cpu", "/", ("cpu",)), Hierarchy("/c/memory", "/", ("memory",))))
V2 = Tree(2, (Hierarchy("/c", "/", ()),))
POD = "/kubepods/besteffort/pod1/ID"
SYSTEMD = "kubepods-besteffort-pod1.slice:cri-containerd:ID"


def test_all_of_the_pod_is_in_its_group() -> None:
    for tree in (V1, V2):
        found = plan(tree, POD, "ID", only=True)
        assert found.sandbox == "/kubepods/besteffort/pod1/kata_ID"
        assert (found.shim, found.qemu, found.overhead) == (found.sandbox, found.sandbox, "")
        assert not found.moves_threads
        assert [path for _, path in found.places] == [found.sandbox] * len(tree.hierarchies)


def test_version_1_parts_the_processors_threads() -> None:
    found = plan(V1, POD, "ID", only=False)
    assert found.shim == found.qemu == found.overhead == "/kata_overhead/ID"
    assert found.moves_threads
    assert [one.directory(path) for one, path in found.places] == [
        "/c/cpu/kubepods/besteffort/pod1/kata_ID",
        "/c/memory/kubepods/besteffort/pod1/kata_ID",
        "/c/cpu/kata_overhead/ID",
        "/c/memory/kata_overhead/ID",
    ]


def test_version_2_has_all_of_qemu_in_the_pods_group() -> None:
    found = plan(V2, POD, "ID", only=False)
    assert found.shim == "/kata_overhead/ID"
    assert found.qemu == found.sandbox == "/kubepods/besteffort/pod1/kata_ID"
    assert not found.moves_threads


@pytest.mark.parametrize("only", [True, False])
def test_systemds_form(only: bool) -> None:
    found = plan(V2, SYSTEMD, "ID", only=only)
    assert found.scope == Scope("kubepods-besteffort-pod1.slice", "cri-containerd-ID.scope")
    assert found.sandbox == (
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/cri-containerd-ID.scope"
    )


@pytest.mark.parametrize(
    ("path", "group"),
    [
        ("/ID", "/kata_ID"),
        ("//a///ID/", "/a/kata_ID"),
        ("/a/./ID", "/a/kata_ID"),
        ("ID", "/vc/kata_ID"),
        ("a/ID", "/vc/a/kata_ID"),
        ("/a:b:c/ID", "/a:b:c/kata_ID"),
    ],
)
def test_paths(path: str, group: str) -> None:
    assert plan(V1, path, "ID", only=True).sandbox == group


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/a/../ID",
        "../ID",
        "/a\nb",
        "/a\0b",
        "/" + "x" * 5000,
        "a:b:c",
        "a.slice:b:",
        "a--b.slice:c:d",
        "-a.slice:c:d",
        ".slice:c:d",
        "a.slice:--property=x:y z",
        "a.slice:-c:d",
    ],
)
def test_what_is_no_group(path: str) -> None:
    with pytest.raises(DecodeError) as error:
        plan(V1, path, "ID", only=True)
    assert error.value.code == "cgroup.path"


def test_slices() -> None:
    assert expand_slice("-.slice") == ""
    assert expand_slice("a.slice") == "/a.slice"
    assert expand_slice("a-b_c.slice") == "/a.slice/a-b_c.slice"


@given(st.text(max_size=60), st.booleans())
def test_a_group_is_below_the_hierarchy(path: str, only: bool) -> None:
    try:
        found = plan(V1, path, "ID", only=only)
    except DecodeError:
        return
    for one, group in found.places:
        assert group.startswith("/")
        assert not {"..", ".", ""} & set(group.split("/")[1:])
        assert one.directory(group) == one.mount + group
