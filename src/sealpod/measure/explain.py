# SPDX-License-Identifier: Apache-2.0
"""Which part of a guest differs from its reference.

A refused launch says that the digest is another one; this says why, part by part, and for the command line
word by word.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Final, Literal

from sealpod.measure.components import Components
from sealpod.record import Record

Part = Literal[
    "mode",
    "firmware",
    "SVSM",
    "variables",
    "kernel",
    "initrd",
    "command line",
    "vCPUs",
    "CPU signature",
    "VMM",
    "guest features",
    "VMSA layout",
    "policy",
    "digest",
]

_SHA256_DIGITS: Final = 64
_NOTHING: Final = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""SHA-256 of nothing."""

_UNTOLD: Final = "; whether the firmware is the same cannot be told from hashes of two kinds"

MAX_WORDS: Final = 8
"""Changed places of a command line that are spelt out; the rest is counted."""


class Difference(Record):
    """One part that differs. ``detail`` is a phrase; text from a command line stands in it quoted."""

    part: Part
    detail: str

    def __str__(self) -> str:
        return f"{self.part} differs: {self.detail}"


def explain(reference: Components, actual: Components) -> tuple[Difference, ...]:
    """The parts in which ``actual`` differs from ``reference``; empty when none does.

    What only one of the two knows (a policy, the vCPUs of another mode) is not compared. The part "digest"
    stands only for a record whose digest does not follow from its parts.
    """
    found = tuple(_differences(reference, actual))
    if reference.digest == actual.digest or any(each.part != "policy" for each in found):
        return found
    detail = f"is {actual.digest}, the reference has {reference.digest} for the same parts"
    return (*found, Difference("digest", detail))


def closest(references: Sequence[Components], actual: Components) -> Components:
    """The reference to compare with: the one of this digest, else of the nearest number of vCPUs.

    Of several such it is the one with the fewest parts that differ, then the fewest words: where no vCPU is
    measured, only the command line tells their number.
    """
    return min(references, key=lambda one: _distance(one, actual))


def _distance(reference: Components, actual: Components) -> tuple[bool, int, int, int]:
    changes = len(list(_differences(reference, actual)))
    words = set((reference.cmdline or "").split()) ^ set((actual.cmdline or "").split())
    vcpus = abs((reference.vcpus or 0) - (actual.vcpus or 0))
    return reference.digest != actual.digest, vcpus, changes, len(words)


def _differences(reference: Components, actual: Components) -> Iterator[Difference]:
    if reference.mode != actual.mode:
        firmwares = "" if _alike(reference, actual) else _UNTOLD
        yield Difference("mode", f"is {actual.mode}, the reference has {reference.mode}{firmwares}")
    for part, expected, found in _hashes(reference, actual):
        if expected != found:
            yield Difference(part, _hash_differs(expected, found))
    if reference.line_hash() != actual.line_hash():
        yield Difference("command line", _command_line(reference, actual))
    for part, expected, found in _values(reference, actual):
        if expected is not None and found is not None and expected != found:
            yield Difference(part, f"is {found}, the reference has {expected}")


def _hashes(reference: Components, actual: Components) -> Iterator[tuple[Part, str | None, str | None]]:
    if _alike(reference, actual):
        yield "firmware", reference.firmware, actual.firmware
    if reference.svsm is not None and actual.svsm is not None:
        yield "SVSM", reference.svsm, actual.svsm
    yield "kernel", reference.kernel, actual.kernel
    yield "initrd", reference.initrd, actual.initrd


def _values(reference: Components, actual: Components) -> Iterator[tuple[Part, str | None, str | None]]:
    yield "variables", _bytes(reference.vars_size), _bytes(actual.vars_size)
    yield "vCPUs", _text(reference.vcpus), _text(actual.vcpus)
    yield "CPU signature", _hex(reference.signature), _hex(actual.signature)
    yield "VMM", reference.vmm, actual.vmm
    yield "guest features", _hex(reference.features), _hex(actual.features)
    yield "VMSA layout", reference.fpu, actual.fpu
    yield "policy", _hex(reference.policy), _hex(actual.policy)


def _alike(reference: Components, actual: Components) -> bool:
    """Whether the firmwares' hashes are of one kind: SEV-SNP has another."""
    return len(reference.firmware) == len(actual.firmware)


def _hash_differs(expected: str | None, found: str | None) -> str:
    if found is None:
        return f"is not measured, the reference has {_hash(expected)}"
    kind = "SEV-SNP hash" if len(found) > _SHA256_DIGITS else "SHA-256"
    if expected is None:
        return f"{kind} is {_hash(found)}, in the reference it is not measured"
    return f"{kind} is {_hash(found)}, the reference has {_hash(expected)}"


def _hash(value: str | None) -> str:
    return f"{value} (of nothing: none was given)" if value == _NOTHING else f"{value}"


def _hex(value: int | None) -> str | None:
    return None if value is None else hex(value)


def _text(value: int | None) -> str | None:
    return None if value is None else str(value)


def _bytes(value: int | None) -> str | None:
    return None if value is None else f"{value} bytes"


def _command_line(reference: Components, actual: Components) -> str:
    expected, found = reference.cmdline, actual.cmdline
    if expected is not None and found is not None:
        return _changes(expected, found)
    if reference.line_hash() is None or actual.line_hash() is None:
        return "is not measured" if actual.line_hash() is None else "is measured, in the reference it is not"
    return f"SHA-256 is {actual.line_hash()}, the reference has {reference.line_hash()}"


def _changes(expected: str, found: str) -> str:
    changes = list(_changed_words(expected.split(" "), found.split(" ")))
    text = "; ".join(changes[:MAX_WORDS])
    more = len(changes) - MAX_WORDS
    return text if more <= 0 else f"{text}; and {more} more"


def _changed_words(expected: list[str], found: list[str]) -> Iterator[str]:
    for kind, start, end, other_start, other_end in _opcodes(expected, found):
        old, new = _quoted(expected[start:end]), _quoted(found[other_start:other_end])
        words, verb = _words(other_start, other_end)
        if kind == "replace":
            yield f"{words} {verb} {new}, the reference has {old}"
        elif kind == "insert":
            yield f"{words} {new} {verb} not in the reference"
        elif kind == "delete":
            words, verb = _words(start, end)
            yield f"the reference's {words} {old} {verb} missing"


def _opcodes(expected: list[str], found: list[str]) -> Iterator[tuple[str, int, int, int, int]]:
    """What to do to ``expected``; as many words for as many are told one by one."""
    for code in difflib.SequenceMatcher(None, expected, found, autojunk=False).get_opcodes():
        kind, start, end, other_start, other_end = code
        if kind == "replace" and end - start == other_end - other_start:
            for at in range(end - start):
                yield kind, start + at, start + at + 1, other_start + at, other_start + at + 1
        else:
            yield code


def _words(start: int, end: int) -> tuple[str, str]:
    """Which words, and the verb that goes with them."""
    return (f"word {end}", "is") if end - start == 1 else (f"words {start + 1} to {end}", "are")


def _quoted(words: list[str]) -> str:
    # ascii(): a command line comes from the host, and its text must not steer the reader's terminal.
    return ascii(" ".join(words))
