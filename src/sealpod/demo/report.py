# SPDX-License-Identifier: Apache-2.0
"""What the demonstration found: one result per scenario, as a table and as ``report.json``."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sealpod.sandbox.timeline import Phase

SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Result:
    """One scenario's outcome. ``message`` is what the container printed, ``error`` one line, else empty."""

    name: str
    outcome: Literal["ran", "refused"]
    message: str
    error: str
    launch_digest: str
    phases: tuple[Phase, ...]
    explanation: tuple[str, ...] = ()
    """The guest owner's view: what differs from the reference."""
    as_expected: bool = False
    console: tuple[str, ...] = ()
    """The guest's last lines, when it did not end as expected."""

    def to_json(self) -> dict[str, object]:
        """The object of ``report.json``."""
        return {
            "name": self.name,
            "outcome": self.outcome,
            "message": self.message,
            "error": self.error,
            "launchDigest": self.launch_digest,
            "phases": [{"name": phase.name, "seconds": round(phase.seconds, 3)} for phase in self.phases],
        }


def render(result: Result) -> str:
    """A few lines for a terminal."""
    total = sum(phase.seconds for phase in result.phases)
    mark = "as expected" if result.as_expected else "NOT AS EXPECTED"
    lines = [f"{result.name:<9} {result.outcome:<8} {total:6.1f} s   {mark}"]
    if result.message:
        lines.append(f"          printed: {result.message}")
    if result.error:
        lines.append(f"          {result.error}")
    lines += [f"          owner:   {line}" for line in result.explanation]
    lines += [f"          console | {line}" for line in result.console]
    steps = "  ".join(f"{phase.name} {phase.seconds:.1f}" for phase in result.phases)
    lines.append(f"          {steps}")
    return "\n".join(lines)


def encode(results: Sequence[Result]) -> str:
    """``report.json``."""
    document = {"schemaVersion": SCHEMA_VERSION, "scenarios": [result.to_json() for result in results]}
    return json.dumps(document, indent=2) + "\n"


def write(path: str, results: Sequence[Result]) -> None:
    """Write the report as a whole or not at all."""
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as target:
        target.write(encode(results))
    os.replace(temporary, path)
