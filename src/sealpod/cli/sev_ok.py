# SPDX-License-Identifier: Apache-2.0
"""``sealpod sev ok``: sevctl's tests of a machine, and what to do about those that fail."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any, Final

from sealpod.cli.sev_common import add_output, print_result
from sealpod.errors import OperationError

if TYPE_CHECKING:
    from sealpod.platform.hostcheck import Generation, Outcome

EPILOG: Final = """\
Without an argument the processor's own generation is tested; each includes those before it. A failed test's
own tests are skipped. For SME and SEV-SNP an MSR has to be read, which needs root and the module msr.

Exit status: 0 nothing failed, 1 something did.
"""
FAILED: Final = "One or more tests in sevctl-ok reported a failure"
_COLOURS: Final = {"PASS": "\x1b[32m", "SKIP": "\x1b[33m", "FAIL": "\x1b[31m"}
_PLAIN: Final = "\x1b[0m"


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = EPILOG
    parser.add_argument(
        "generation",
        metavar="sev|es|snp",
        nargs="?",
        choices=("sev", "es", "snp"),
        help="what to test for: SEV, SEV-ES or SEV-SNP",
    )
    add_output(parser, _run)


def _run(args: argparse.Namespace) -> int:
    from sealpod.platform import hostcheck
    from sealpod.platform.hostprobe import RealHost

    host = RealHost()
    wanted = args.generation
    generation = hostcheck.Generation[wanted.upper()] if wanted else hostcheck.detect_generation(host)
    outcomes = hostcheck.check_host(host, generation)
    passed = hostcheck.passed(outcomes)
    print_result(args, _text(outcomes), _record(outcomes, generation, passed))
    if not passed:
        raise OperationError(FAILED, code="sev.ok", remedy="the output says what to do about each")
    return 0


def _text(outcomes: tuple[Outcome, ...]) -> str:
    from sealpod.platform.hostcheck import flatten, remedies

    lines = []
    for depth, outcome in flatten(outcomes):
        message = f": {outcome.message}" if outcome.message else ""
        lines.append(f"[ {_coloured(outcome.state)} ] {'  ' * depth}- {outcome.name}{message}")
    todo = remedies(outcomes)
    if todo:
        lines += ["", "What to do:"]
        lines += [f"- {', '.join(names)}: {remedy}" for remedy, names in todo.items()]
    return "\n".join(lines)


def _coloured(state: str) -> str:
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return state
    return f"{_COLOURS[state]}{state}{_PLAIN}"


def _record(outcomes: tuple[Outcome, ...], generation: Generation, passed: bool) -> dict[str, Any]:
    return {
        "generation": generation.name.lower(),
        "passed": passed,
        "tests": [_test(outcome) for outcome in outcomes],
    }


def _test(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.name,
        "state": outcome.state,
        "message": outcome.message or None,
        "remedy": outcome.remedy or None,
        "tests": [_test(child) for child in outcome.children],
    }
