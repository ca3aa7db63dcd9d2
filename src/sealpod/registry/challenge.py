# SPDX-License-Identifier: Apache-2.0
"""``WWW-Authenticate`` challenges (RFC 9110, section 11.6.1; Docker's token authentication)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from sealpod.record import Record

MAX_HEADER: Final = 16 * 1024  # characters; http.client allows lines of 64 KiB
_SCHEME = re.compile(r"\s*,?\s*([A-Za-z][A-Za-z0-9-]*)(?=\s+[A-Za-z]|\s*$|\s*,)")
_PARAMETER = re.compile(r'\s*,?\s*([A-Za-z][A-Za-z0-9_-]*)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))')


class Challenge(Record):
    """One way to authenticate: scheme and parameter names in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """The challenges in a header; what cannot be read ends the list."""
    header = header[:MAX_HEADER]
    found: list[Challenge] = []
    position = 0
    while (scheme := _SCHEME.match(header, position)) is not None:
        position = scheme.end()
        parameters: dict[str, str] = {}
        while (parameter := _PARAMETER.match(header, position)) is not None:
            quoted, plain = parameter[2], parameter[3]
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            parameters[parameter[1].lower()] = value
            position = parameter.end()
        found.append(Challenge(scheme[1].lower(), parameters))
    return tuple(found)
