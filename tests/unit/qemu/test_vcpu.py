# SPDX-License-Identifier: Apache-2.0
"""The vCPU signature a guest has, and the limit on locked memory of a confidential one."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from sealpod.errors import AccessError, OperationError
from sealpod.qemu.memlock import OVERHEAD, allow_locked
from sealpod.qemu.vcpu import EMULATED_SIGNATURE, vcpu_signature

MILAN = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 1\nmodel name\t: x\nstepping\t: 1\n"
MIB = 1 << 20


def cpuinfo(tmp_path: Path, text: str) -> str:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    return str(path)


def test_an_emulated_vcpu_is_the_same_everywhere(tmp_path: Path) -> None:
    assert vcpu_signature("tcg", cpuinfo=str(tmp_path / "absent")) == EMULATED_SIGNATURE == 0x60FB1


def test_under_kvm_it_is_the_hosts(tmp_path: Path) -> None:
    assert vcpu_signature("kvm", cpuinfo=cpuinfo(tmp_path, MILAN)) == 0xA00F11


@pytest.mark.parametrize("line", MILAN.splitlines()[1:3])
def test_a_kernel_that_does_not_say_is_an_error(tmp_path: Path, line: str) -> None:
    with pytest.raises(OperationError) as caught:
        vcpu_signature("kvm", cpuinfo=cpuinfo(tmp_path, MILAN.replace(line + "\n", "")))
    assert caught.value.code == "qemu.host-cpu"
    with pytest.raises(OperationError):
        vcpu_signature("kvm", cpuinfo=str(tmp_path / "absent"))


class Limits:
    """This process's limit, as far as the module can tell."""

    def __init__(self, soft: int, hard: int) -> None:
        self.value = (soft, hard)

    def get(self, which: int) -> tuple[int, int]:
        assert which == resource.RLIMIT_MEMLOCK
        return self.value

    def set(self, which: int, value: tuple[int, int]) -> None:
        assert which == resource.RLIMIT_MEMLOCK
        self.value = value


@pytest.fixture
def ordinary(tmp_path: Path) -> str:
    path = tmp_path / "status"
    path.write_text("Name:\tx\nCapEff:\t00000000a80425fb\n")
    return str(path)


@pytest.mark.parametrize("hard", [resource.RLIM_INFINITY, 512 * MIB + OVERHEAD])
def test_the_soft_limit_is_raised_where_the_hard_one_allows(
    monkeypatch: pytest.MonkeyPatch, ordinary: str, hard: int
) -> None:
    limits = Limits(8 * MIB, hard)
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)
    allow_locked(512 * MIB, status=ordinary)
    assert limits.value == (hard, hard)


def test_a_limit_that_is_too_low_is_told_before_qemu_starts(
    monkeypatch: pytest.MonkeyPatch, ordinary: str
) -> None:
    limits = Limits(8 * MIB, 511 * MIB + OVERHEAD)
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    with pytest.raises(AccessError) as caught:
        allow_locked(512 * MIB, status=ordinary)
    assert caught.value.code == "qemu.memlock"
    assert "576" in caught.value.message


def test_who_may_lock_memory_has_no_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resource, "getrlimit", Limits(0, 0).get)
    status = tmp_path / "status"
    status.write_text("CapEff:\t000001ffffffffff\n")
    allow_locked(512 * MIB, status=str(status))
