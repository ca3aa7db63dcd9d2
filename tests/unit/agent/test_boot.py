# SPDX-License-Identifier: Apache-2.0
"""PID 1's own steps, with the system calls recorded instead of made."""

from __future__ import annotations

import errno
import os
import resource

import pytest

from sealpod.agent import __main__ as main_module
from sealpod.agent import boot, network, syscalls
from sealpod.errors import OperationError, UnavailableError


class Calls:
    """System calls as they came; ``missing`` are targets whose mount fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        self.missing: set[str] = set()
        self.present: set[str] = set()
        monkeypatch.setattr(os, "umask", lambda mask: self.made.append(f"umask {mask:o}"))
        monkeypatch.setattr(os, "makedirs", lambda path, exist_ok: None)
        monkeypatch.setattr(os.path, "ismount", self.present.__contains__)
        monkeypatch.setattr(syscalls, "mount", self.mount)
        monkeypatch.setattr(
            syscalls, "set_limit", lambda kind, most: self.made.append(f"limit {kind} {most}")
        )
        monkeypatch.setattr(network, "bring_up_loopback", lambda: self.made.append("lo"))
        monkeypatch.setattr(boot, "CGROUPS", "/nonexistent")

    def mount(self, source: str, target: str, kind: str, flags: int, options: str) -> None:
        if target in self.missing:
            raise OSError(errno.ENODEV, "No such device")
        self.made.append(f"mount {target}")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


def test_everything_is_mounted(calls: Calls) -> None:
    boot.prepare()
    targets = (
        "/proc",
        "/sys",
        "/dev",
        "/dev/pts",
        "/dev/shm",
        "/run",
        "/sys/fs/cgroup",
        "/sys/kernel/security",
    )
    limits = ["limit 7 1048576", f"limit 6 {2**64 - 1}"]
    assert calls.made == ["umask 22", *(f"mount {target}" for target in targets), *limits, "lo"]


def test_a_kernel_that_allows_less_is_no_failure(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_kind: int, _most: int) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(syscalls, "set_limit", refused)
    boot.prepare()
    assert calls.made[-1] == "lo"


def test_soft_and_hard_limit_are_set() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        syscalls.set_limit(syscalls.RLIMIT_NOFILE, hard)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_is_there_stays(calls: Calls) -> None:
    calls.present |= {"/proc", "/sys", "/dev"}
    boot.prepare()
    assert not {"mount /proc", "mount /sys", "mount /dev"}.intersection(calls.made)
    assert "mount /run" in calls.made


def test_a_kernel_without_securityfs_will_do(calls: Calls) -> None:
    calls.missing.add("/sys/kernel/security")
    boot.prepare()
    assert calls.made[-1] == "lo"


def test_a_kernel_without_cgroups_will_not(calls: Calls) -> None:
    calls.missing.add("/sys/fs/cgroup")
    with pytest.raises(OperationError, match="cannot mount /sys/fs/cgroup: No such device"):
        boot.prepare()


class PoweredOff(BaseException):
    pass


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            UnavailableError("no port", code="agent.no-channel"),
            "sealpod: agent failed: no port [agent.no-channel]",
        ),
        (RuntimeError("odd"), "sealpod: agent failed: RuntimeError: odd"),
        (SystemExit(3), "sealpod: agent failed: SystemExit: 3"),
    ],
)
def test_a_failing_agent_says_why_and_powers_off(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: BaseException, line: str
) -> None:
    def fail(_: object) -> None:
        raise error

    def power_off() -> None:
        raise PoweredOff

    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(main_module, "run", fail)
    monkeypatch.setattr(boot, "power_off", power_off)
    with pytest.raises(PoweredOff):
        main_module.main()
    assert capfd.readouterr().err == f"{line}\n"


def test_powering_off_falls_back_to_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[int] = []

    def reboot(command: int) -> None:
        commands.append(command)
        raise OSError(errno.EPERM, "no")

    def leave(status: int) -> None:
        raise PoweredOff

    monkeypatch.setattr(os, "sync", lambda: None)
    monkeypatch.setattr(syscalls, "reboot", reboot)
    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(PoweredOff):
        boot.power_off()
    assert commands == [syscalls.POWER_OFF, syscalls.RESTART]
