# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod import errors
from sealpod.wire.status import STATUS_OF_FAMILY, from_status, to_status


def families(root: type[errors.SealpodError]) -> list[type[errors.SealpodError]]:
    return [root] + [found for child in root.__subclasses__() for found in families(child)]


def direct_families() -> list[type[errors.SealpodError]]:
    ours = [family for family in errors.SealpodError.__subclasses__() if family.__module__ == errors.__name__]
    return [*ours, errors.SealpodError]


def build(family: type[errors.SealpodError], message: str, **extra: str) -> errors.SealpodError:
    if family is errors.FirmwareError:
        return errors.FirmwareError(message, status=7, **extra)
    return family(message, **extra)


def test_the_table_is_total_and_has_each_family_once() -> None:
    listed = [family for family, _ in STATUS_OF_FAMILY]
    assert sorted(listed, key=repr) == sorted(direct_families(), key=repr)


def test_numbers_differ_so_that_families_can_be_told_apart() -> None:
    numbers = [number for family, number in STATUS_OF_FAMILY if family is not errors.SealpodError]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("family", direct_families(), ids=lambda family: family.__name__)
def test_round_trip_keeps_family_message_code_and_remedy(family: type[errors.SealpodError]) -> None:
    error = build(family, "it went wrong", code="area.reason", remedy="try again")
    back = from_status(*to_status(error))
    expected = errors.OperationError if family is errors.SealpodError else family
    assert type(back) is expected
    assert (back.message, back.code, back.remedy) == ("it went wrong", "area.reason", "try again")


@pytest.mark.parametrize("family", [errors.LaunchError, errors.FirmwareError])
def test_a_subfamily_travels_as_its_family(family: type[errors.SealpodError]) -> None:
    back = from_status(*to_status(build(family, "no guest", code="launch.failed")))
    assert type(back) is errors.OperationError
    assert back.code == "launch.failed"


def test_a_foreign_exception_does_not_show_its_text() -> None:
    number, text = to_status(ValueError("s3cret"))
    assert number == 13
    assert "s3cret" not in text
    assert "ValueError" in text


@given(st.integers(), st.text(max_size=80))
def test_any_status_becomes_an_error(number: int, text: str) -> None:
    error = from_status(number, text)
    assert isinstance(error, errors.SealpodError)
    assert error.one_line()
