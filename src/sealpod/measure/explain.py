# SPDX-License-Identifier: Apache-2.0
"""Which part of a guest differs from its reference.

A refused launch says that the digest is another one; this says why, part by part, and for the command line
word by word.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from sealpod.measure.components import Components

Part = Literal["firmware", "kernel", "initrd", "command line", "digest"]

MAX_WORDS: Final = 8
"""Changed places of a command line that are spelt out; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One part that differs. ``detail`` is a phrase; text from a command line stands in it quoted."""

    part: Part
    detail: str

    def __str__(self) -> str:
        return f"{self.part} differs: {self.detail}"


def explain(reference: Components, actual: Components) -> tuple[Difference, ...]:
    """The parts in which ``actual`` differs from ``reference``; empty when none does.

    The part "digest" stands only for a record whose digest does not follow from its parts.
    """
    found = tuple(_differences(reference, actual))
    if not found and reference.digest != actual.digest:
        detail = f"is {actual.digest}, the reference has {reference.digest} for the same parts"
        return (Difference("digest", detail),)
    return found


def _differences(reference: Components, actual: Components) -> Iterator[Difference]:
    parts: tuple[tuple[Part, str | None, str | None], ...] = (
        ("firmware", reference.firmware, actual.firmware),
        ("kernel", reference.kernel, actual.kernel),
        ("initrd", reference.initrd, actual.initrd),
    )
    for part, expected, found in parts:
        if expected != found:
            yield Difference(part, f"SHA-256 is {_hash(found)}, the reference has {_hash(expected)}")
    if reference.cmdline != actual.cmdline:
        yield Difference("command line", _command_line(reference.cmdline, actual.cmdline))


def _hash(value: str | None) -> str:
    return "none (not measured)" if value is None else value


def _command_line(expected: str | None, found: str | None) -> str:
    if expected is None or found is None:
        return "is not measured" if found is None else "is measured, in the reference it is not"
    changes = list(_changed_words(expected.split(" "), found.split(" ")))
    text = "; ".join(changes[:MAX_WORDS])
    more = len(changes) - MAX_WORDS
    return text if more <= 0 else f"{text}; and {more} more"


def _changed_words(expected: list[str], found: list[str]) -> Iterator[str]:
    matcher = difflib.SequenceMatcher(None, expected, found, autojunk=False)
    for kind, start, end, other_start, other_end in matcher.get_opcodes():
        old, new = _quoted(expected[start:end]), _quoted(found[other_start:other_end])
        if kind == "replace":
            yield f"word {other_start + 1} is {new}, the reference has {old}"
        elif kind == "insert":
            yield f"word {other_start + 1} {new} is not in the reference"
        elif kind == "delete":
            yield f"the reference's word {start + 1} {old} is missing"


def _quoted(words: list[str]) -> str:
    # ascii(): a command line comes from the host, and its text must not steer the reader's terminal.
    return ascii(" ".join(words))
