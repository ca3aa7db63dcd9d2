# SPDX-License-Identifier: Apache-2.0
"""Can this machine launch SEV guests? sevctl's tests as a tree, in :data:`TESTS`, and how it is walked.

A test is asked only when its parent has passed; tests of a later generation than the one asked for are
skipped. What each asks, and what to do when the answer is no, is in :mod:`.hostanswers` and
:mod:`.hostremedies`. An answer that cannot be had counts as no, as it does for sevctl, and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from sealpod.platform import hostanswers as answers
from sealpod.platform.hostanswers import Answer
from sealpod.platform.hostprobe import HostProbe


class Generation(IntEnum):
    """What kind of guest is wanted; each includes those before it."""

    SEV = 1
    ES = 2
    SNP = 3


@dataclass(frozen=True, slots=True)
class Test:
    """One question of the tree."""

    name: str
    generation: Generation
    ask: Callable[[HostProbe], Answer]
    children: tuple[Test, ...] = ()

    __test__ = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """A test with its answer."""

    name: str
    state: str
    """``PASS``, ``FAIL`` or ``SKIP``."""
    message: str
    remedy: str
    """What to do, or to look after although it passed."""
    children: tuple[Outcome, ...]


NAPLES_AND_ROME: Final = 0x17
"""The family of EPYC 7001 and 7002."""

TESTS: Final = (
    Test(
        "AMD CPU",
        Generation.SEV,
        answers.amd_cpu,
        (
            Test("Microcode support", Generation.SEV, answers.microcode),
            Test("Secure Memory Encryption (SME)", Generation.SEV, answers.sme),
            Test(
                "Secure Encrypted Virtualization (SEV)",
                Generation.SEV,
                answers.sev,
                (
                    Test("Encrypted State (SEV-ES)", Generation.ES, answers.es),
                    Test(
                        "Secure Nested Paging (SEV-SNP)",
                        Generation.SNP,
                        answers.snp,
                        (
                            Test(
                                "VM Permission Levels",
                                Generation.SNP,
                                answers.vmpl,
                                (Test("Number of VMPLs", Generation.SNP, answers.vmpl_count),),
                            ),
                        ),
                    ),
                    Test("Physical address bit reduction", Generation.SEV, answers.reduction),
                    Test("C-bit location", Generation.SEV, answers.c_bit),
                    Test(
                        "Number of encrypted guests supported simultaneously",
                        Generation.SEV,
                        answers.guest_count,
                    ),
                    Test(
                        "Minimum ASID value for SEV-enabled, SEV-ES disabled guest",
                        Generation.SEV,
                        answers.minimum_asid,
                    ),
                    Test("SEV enabled in KVM", Generation.SEV, answers.kvm_sev),
                    Test("SEV-ES enabled in KVM", Generation.ES, answers.kvm_es),
                    Test("/dev/sev readable", Generation.SEV, answers.sev_readable),
                    Test("/dev/sev writable", Generation.SEV, answers.sev_writable),
                ),
            ),
            Test("Page flush MSR", Generation.SEV, answers.page_flush),
        ),
    ),
    Test("KVM Support", Generation.SEV, answers.kvm),
    Test("memlock limit", Generation.SEV, answers.memlock),
)


def detect_generation(host: HostProbe) -> Generation:
    """What the processor is for, by its family and model; SEV-SNP when that is not known."""
    try:
        signature = host.cpuid(answers.EXTENDED_SIGNATURE)[0]
    except OSError:
        return Generation.SNP
    family = (signature >> 8 & 0xF) + (signature >> 20 & 0xFF)
    model = signature >> 4 & 0xF | signature >> 12 & 0xF0
    if family == NAPLES_AND_ROME and 0x01 <= model <= 0x30:
        return Generation.SEV
    if family == NAPLES_AND_ROME and 0x31 <= model <= 0x3F:
        return Generation.ES
    return Generation.SNP


def check_host(host: HostProbe, generation: Generation) -> tuple[Outcome, ...]:
    """Every test's outcome."""
    return tuple(_run(test, host, generation) for test in TESTS)


def flatten(outcomes: tuple[Outcome, ...], depth: int = 0) -> Iterator[tuple[int, Outcome]]:
    """Outcomes in the order of the tree, each with its depth."""
    for outcome in outcomes:
        yield depth, outcome
        yield from flatten(outcome.children, depth + 1)


def passed(outcomes: tuple[Outcome, ...]) -> bool:
    """Whether no test failed."""
    return all(outcome.state != "FAIL" for _, outcome in flatten(outcomes))


def remedies(outcomes: tuple[Outcome, ...]) -> dict[str, list[str]]:
    """What to do, each sentence once, with the names of the tests it is for."""
    found: dict[str, list[str]] = {}
    for _, outcome in flatten(outcomes):
        if outcome.remedy:
            found.setdefault(outcome.remedy, []).append(outcome.name)
    return found


def _run(test: Test, host: HostProbe, generation: Generation) -> Outcome:
    if test.generation > generation:
        return _skipped(test)
    answer = test.ask(host)
    children = (_run(child, host, generation) if answer.holds else _skipped(child) for child in test.children)
    state = "PASS" if answer.holds else "FAIL"
    return Outcome(answer.name or test.name, state, answer.message, answer.remedy, tuple(children))


def _skipped(test: Test) -> Outcome:
    return Outcome(test.name, "SKIP", "", "", tuple(_skipped(child) for child in test.children))
