# SPDX-License-Identifier: Apache-2.0
"""A scope is held until the pod is in it. A script stands for ``systemd-run``; it says what it was given.

Left out: systemd itself, which tests cannot start.
"""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest

from sealpod.errors import OperationError
from sealpod.sandbox import systemdscope
from sealpod.sandbox.cgroupplan import Scope
from sealpod.sandbox.groupcleanup import remove_recorded
from sealpod.sandbox.systemdscope import HeldScope

SCOPE = Scope("kubepods-pod1.slice", "cri-containerd-ID.scope")
RUNS = """\
#!/bin/sh
echo $$ > {place}/pid
for word in "$@"; do echo "$word"; done > {place}/words
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""
REFUSES = "#!/bin/sh\necho 'Failed to start transient scope unit:\nUnit exists' >&2\nexit 1\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(systemdscope, "BOOTED", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def program(place: Path, text: str) -> None:
    path = place / "systemd-run"
    path.write_text(text.format(place=place))
    path.chmod(0o755)


def test_it_lasts_until_it_is_released(place: Path) -> None:
    program(place, RUNS)
    held = HeldScope(SCOPE)
    descriptor = os.pidfd_open(int((place / "pid").read_text()))
    assert select.select([descriptor], [], [], 0)[0] == []
    held.release()
    assert select.select([descriptor], [], [], 0)[0] == [descriptor]
    held.release()
    os.close(descriptor)
    words = (place / "words").read_text().splitlines()
    assert {"--scope", "--unit=cri-containerd-ID.scope", "--slice=kubepods-pod1.slice"} <= set(words)
    assert words[words.index("Delegate=yes") - 1] == "--property"


def test_systemds_words_are_told(place: Path) -> None:
    program(place, REFUSES)
    with pytest.raises(OperationError, match="transient scope unit: Unit exists") as error:
        HeldScope(SCOPE)
    assert error.value.code == "cgroup.systemd"


def test_a_systemd_that_does_not_answer(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(place, "#!/bin/sh\necho $$ > {place}/pid\nexec sleep 1000\n")
    monkeypatch.setattr(systemdscope, "START_SECONDS", 0.0)
    with pytest.raises(OperationError, match="no answer within 0 s"):
        HeldScope(SCOPE)


def test_it_is_systemd_that_removes_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "systemctl").write_text(f'#!/bin/sh\necho "$*" >> {place}/told\nrmdir {place}/group\nexit 5\n')
    (place / "systemctl").chmod(0o755)
    (place / "group").mkdir()
    remove_recorded({"cgroups": {"directories": [str(place / "group"), 7], "unit": SCOPE.unit}})
    assert (place / "told").read_text() == f"--system stop -- {SCOPE.unit}\n"
    assert not (place / "group").exists()
    monkeypatch.setattr(systemdscope, "BOOTED", str(place / "none"))
    for record in ({}, {"cgroups": 1}, {"cgroups": {"directories": []}}, {"cgroups": {"unit": SCOPE.unit}}):
        remove_recorded(record)
    assert (place / "told").read_text().count("stop") == 1


def test_a_machine_without_systemd(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(place, RUNS)
    monkeypatch.setattr(systemdscope, "BOOTED", str(place / "none"))
    with pytest.raises(OperationError, match="does not run systemd"):
        HeldScope(SCOPE)
