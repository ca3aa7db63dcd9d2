# SPDX-License-Identifier: Apache-2.0
"""Lists of processors as cpuset(7) has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError
from sealpod.sandbox.cpuset import MAX_NUMBER, union


@pytest.mark.parametrize(
    ("lists", "whole"),
    [
        ([], ""),
        ([""], ""),
        (["", "\n"], ""),
        (["3"], "3"),
        (["0-1,2", "7"], "0-2,7"),
        (["8-9", "1-3", "2-4"], "1-4,8-9"),
        (["1, 2"], "1-2"),
    ],
)
def test_lists_are_put_together(lists: list[str], whole: str) -> None:
    assert union(lists) == whole


@pytest.mark.parametrize("text", ["x", "-1", "1-", "3-1", "0-99999", "65536", "1:2", "٣", "0-1-2", "0x1"])
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(DecodeError) as error:
        union(["1", text])
    assert error.value.code == "cgroup.cpus"


@given(st.sets(st.integers(0, 200)))
def test_each_number_stays(numbers: set[int]) -> None:
    whole = union(map(str, numbers))
    assert union([whole]) == whole
    found = {
        number
        for first, _, last in (part.partition("-") for part in whole.split(",") if part)
        for number in range(int(first), int(last or first) + 1)
    }
    assert found == numbers
    assert max(numbers, default=0) < MAX_NUMBER
