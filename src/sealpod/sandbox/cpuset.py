# SPDX-License-Identifier: Apache-2.0
"""Lists of processors or memory nodes, ``0-3,8`` (cpuset(7), "List format"). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from sealpod.errors import DecodeError

MAX_NUMBER: Final = 1 << 16
"""Above every number of a processor; a range is expanded."""
_RANGE: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)


def union(lists: Iterable[str]) -> str:
    """All numbers of some lists, as one list in order; empty for empty ones.

    :raise DecodeError: one is no such list (``cgroup.cpus``).
    """
    known = set[int]().union(*map(_numbers, lists))
    ranges = []
    for start in sorted(one for one in known if one - 1 not in known):
        end = start
        while end + 1 in known:
            end += 1
        ranges.append(f"{start}-{end}" if end > start else str(start))
    return ",".join(ranges)


def _numbers(text: str) -> set[int]:
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        match = _RANGE.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last or last >= MAX_NUMBER:
            raise DecodeError(
                f"{text[:80]!r} is no list of processors or memory nodes",
                code="cgroup.cpus",
                remedy="give numbers and ranges, such as 0-3,8",
            )
        found.update(range(first, last + 1))
    return found
