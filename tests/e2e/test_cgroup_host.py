# SPDX-License-Identifier: Apache-2.0
"""A pod's control groups on cgroup v2 with memory limits, on the kernel of the guests in an emulated machine.

This machine may have version 1; there test_pod_cgroups.py has whole pods.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import kernelhost
import pytest

import sealpod
from sealpod.errors import NotFoundError

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not all(map(shutil.which, ("qemu-system-x86_64", "setpriv"))),
        reason="QEMU or setpriv is not installed",
    ),
]
SUPPORT = Path(__file__).parents[1] / "support"
LIMIT = 64 << 20


@pytest.fixture(scope="module")
def found() -> Any:
    try:
        return kernelhost.run(
            SUPPORT / "cgroupscenes.py",
            modules=(),
            packages={"sealpod": Path(sealpod.__file__).parent},
            programs=(shutil.which("setpriv") or "",),
        )
    except NotFoundError as error:
        pytest.skip(f"no kernel to emulate: {error.one_line()}")


@pytest.mark.parametrize(
    ("scene", "shim"), [("only", "/kubepods/pod1/kata_ID"), ("parted", "/kata_overhead/ID")]
)
def test_the_pods_limit_holds_for_qemu_and_is_told(found: Any, scene: str, shim: str) -> None:
    seen = found[scene]
    assert seen["shim"] == shim
    assert seen["status"] == -9
    assert LIMIT * 0.9 < seen["peak"] <= LIMIT
    assert seen["code"] == "guest.host-memory"
    assert seen["text"] == "the host's memory limit of the pod killed QEMU (64 MiB, /kubepods/pod1)"
    assert "overhead" in seen["remedy"]
    assert seen["left"] == []


def test_another_end_is_not_taken_for_it(found: Any) -> None:
    # The pod's group has counted kills before; this pod's own has none.
    assert found["calm"] == {
        "shim": "/kata_overhead/ID",
        "qemu": "/kubepods/pod1/kata_ID",
        "counted": True,
        "told": False,
        "warnings": [],
    }


def test_the_groups_are_gone(found: Any) -> None:
    assert found["back"] == "/"
    assert found["stays"] == [".", "kata_overhead", "kubepods", "kubepods/pod1"]
