# SPDX-License-Identifier: Apache-2.0
"""What happened and when: the phases of one pod, with their seconds.

One timeline per pod. Phases follow one another; the one that raises is kept too, so that an error can say
where it happened.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sealpod.sandbox.spec import LaunchRecord


@dataclass(frozen=True, slots=True)
class Phase:
    """A finished phase: name and seconds."""

    name: str
    seconds: float


@dataclass(slots=True)
class Timeline:
    """Phases in order. ``on_start`` is told each phase's name when it begins (for progress output)."""

    on_start: Callable[[str], None] = lambda _name: None
    phases: list[Phase] = field(default_factory=list)
    current: str = ""

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the block as phase ``name``; recorded also when it raises."""
        self.current = name
        self.on_start(name)
        begin = time.monotonic()
        try:
            yield
        finally:
            self.phases.append(Phase(name, time.monotonic() - begin))

    def total(self) -> float:
        """Seconds of all phases together."""
        return sum(phase.seconds for phase in self.phases)


@dataclass(slots=True)
class Observation:
    """What an onlooker learns while a pod comes up; filled as it happens, so also after a refusal."""

    timeline: Timeline
    record: LaunchRecord | None = None
    launch_id: str = ""
    console: tuple[str, ...] = ()
