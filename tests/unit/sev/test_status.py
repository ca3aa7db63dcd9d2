# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from sealpod.sev.status import Status, firmware_error


@pytest.mark.parametrize("status", Status)
def test_every_status_has_a_text_and_a_code(status: Status) -> None:
    error = status.error("detail")
    assert error.status == status
    assert error.code == f"sev.{status.name.lower().replace('_', '-')}"
    assert status.text in error.message
    assert status.name in error.message
    assert error.message.endswith(": detail")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0x01, "Platform state is invalid"),
        (0x04, "Buffer too small"),
        (0x18, "Part-specific integrity check failure"),
    ],
)
def test_numbers_and_texts_are_qemus(number: int, text: str) -> None:
    assert Status(number).text == text


def test_numbers_no_version_defines_are_errors_too() -> None:
    assert firmware_error(0x0B).code == "sev.bad-measurement"
    assert firmware_error(0x1E, "x").status == 0x1E
    assert "unknown error 0xfff" in firmware_error(0xFFF).message
