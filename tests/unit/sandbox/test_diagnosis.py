# SPDX-License-Identifier: Apache-2.0
"""What a pod's events say about a machine that did not come up."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import LaunchError, RefusedError, SealpodError
from sealpod.sandbox.diagnosis import MAX_TEXT, explained
from sealpod.wire.status import from_status, to_status


def test_phase_reason_console_remedy_and_code_are_one_line() -> None:
    error = LaunchError("no answer", code="launch.deadline", remedy="wait", console=("one", "two"))
    told = explained(error, "boot")
    assert told.one_line() == (
        "booting the guest failed: no answer (console: one | two); wait [launch.deadline]"
    )
    assert isinstance(told, LaunchError)
    assert told.phase == "boot"
    assert error.message == "no answer"


def test_family_and_code_stay_across_the_wire() -> None:
    told = explained(RefusedError("not for you", code="policy.digest", remedy="ask"), "attest", ("x",))
    back = from_status(*to_status(told))
    assert isinstance(back, RefusedError)
    assert (back.code, back.remedy) == ("policy.digest", "ask")


def test_the_systems_refusals_are_told() -> None:
    told = explained(OSError(errno.ENOMEM, "Cannot allocate memory"), "start")
    assert told.code == "launch.system"
    assert "Cannot allocate memory" in told.message
    assert "memory" in told.remedy
    assert (
        explained(ValueError("secret"), "start").message == "starting the guest failed: unexpected ValueError"
    )


@given(st.text(max_size=5000), st.lists(st.text(max_size=1100), max_size=30))
def test_the_text_is_bounded_and_keeps_the_newest_line(reason: str, console: list[str]) -> None:
    told = explained(SealpodError(reason), "boot", console)
    assert len(told.message) <= MAX_TEXT + 20
    if console and 0 < len(console[-1]) < 300:
        assert console[-1] in told.message


@pytest.mark.parametrize("phase", ["", "something new"])
def test_an_unknown_phase_is_no_obstacle(phase: str) -> None:
    assert "broken" in explained(SealpodError("broken"), phase).message
