# SPDX-License-Identifier: Apache-2.0
"""Phases are kept in order, also the one that raises."""

from __future__ import annotations

import pytest

from sealpod.sandbox.timeline import Timeline


def test_phases_in_order_and_announced() -> None:
    started: list[str] = []
    timeline = Timeline(on_start=started.append)
    with timeline.phase("one"):
        pass
    with pytest.raises(ValueError), timeline.phase("two"):
        raise ValueError
    assert [phase.name for phase in timeline.phases] == started == ["one", "two"]
    assert timeline.current == "two"
    assert timeline.total() == sum(phase.seconds for phase in timeline.phases)
