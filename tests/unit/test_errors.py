# SPDX-License-Identifier: Apache-2.0
"""Exit statuses and default codes are promised to scripts: this table freezes them."""

from __future__ import annotations

import re

import pytest

from sealpod import errors

FROZEN = {
    "SealpodError": (1, "internal.error"),
    "UsageError": (2, "usage.invalid"),
    "DecodeError": (1, "decode.malformed"),
    "OperationError": (1, "operation.failed"),
    "LaunchError": (1, "launch.failed"),
    "FirmwareError": (1, "sev.firmware"),
    "VerificationError": (3, "verify.mismatch"),
    "RefusedError": (3, "policy.refused"),
    "NotFoundError": (4, "lookup.not-found"),
    "ConflictError": (5, "state.conflict"),
    "UnavailableError": (6, "peer.unavailable"),
    "AccessError": (7, "access.denied"),
    "DeadlineError": (124, "time.exceeded"),
    "InterruptError": (130, "run.interrupted"),
    "TerminateError": (143, "run.terminated"),
}


def defined() -> dict[str, type[errors.SealpodError]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.SealpodError)
    }


def test_exit_statuses_and_codes_are_frozen() -> None:
    assert {name: (cls.exit_status, cls.default_code) for name, cls in defined().items()} == FROZEN


@pytest.mark.parametrize("name", FROZEN)
def test_every_class_is_drawn_in_the_tree_with_its_exit_status(name: str) -> None:
    lines = [line for line in (errors.__doc__ or "").splitlines() if f" {name} " in f"{line} "]
    assert lines
    drawn = re.search(r"exit (\d+)", lines[0])
    if drawn is not None:
        assert int(drawn.group(1)) == FROZEN[name][0]


def test_one_line_has_cause_remedy_and_code_and_no_line_break() -> None:
    error = errors.NotFoundError("no\nsuch  image", code="image.missing", remedy="push\tit first")
    assert error.one_line() == "no such image; push it first [image.missing]"
    assert errors.DecodeError("bad").one_line() == "bad [decode.malformed]"


def test_the_message_is_the_exceptions_text() -> None:
    error = errors.RefusedError("refused", remedy="ask")
    assert (str(error), error.message, error.code, error.remedy) == (
        "refused",
        "refused",
        "policy.refused",
        "ask",
    )


def test_launch_and_firmware_errors_carry_their_data() -> None:
    launch = errors.LaunchError("no guest", phase="boot", console=("a", "b"))
    assert (launch.phase, launch.console) == ("boot", ("a", "b"))
    assert errors.FirmwareError("bad", status=0x0B).status == 0x0B
