# SPDX-License-Identifier: Apache-2.0
"""A configuration file's text as typed tables (TOML 1.0).

A known key of the wrong type is an error; a key nobody knows is kept aside, with the known key that its name
comes closest to, so that a slip of the pen is found and a newer file can still be read.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from sealpod.errors import DecodeError
from sealpod.kataconfig.keys import KEYS, TABLES, Key, Kind, Value

MAX_TEXT: Final = 256 * 1024
"""Characters of a file; the shipped ones have 30 000."""

_SHOWN: Final = 60  # characters of a foreign name in a message
_CLOSEST_WITHIN: Final = 200  # longer names are nobody's slip of the pen; comparing them only takes time
_EXPECTED: Final[Mapping[Kind, str]] = {
    "string": "a string",
    "boolean": "true or false",
    "integer": "a number from 0 to 4294967295",
    "count": "a number from -2147483648 to 2147483647",
    "strings": "a list of strings",
}
_RANGES: Final[Mapping[Kind, tuple[int, int]]] = {
    "integer": (0, 2**32 - 1),
    "count": (-(2**31), 2**31 - 1),
}


@dataclass(frozen=True, slots=True)
class Unknown:
    """A key or table that no release of Kata has. ``closest`` is a known name in its place, or empty."""

    table: str
    """Dotted name of the table it stands in; empty at the top."""
    name: str
    closest: str

    def describe(self) -> str:
        """One sentence without a final stop."""
        place = f"[{self.table}] has an unknown key" if self.table else "unknown table or key"
        hint = f" (did you mean {self.closest}?)" if self.closest else ""
        return f"{place} {self.name!r}{hint}"


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says: values of known keys, in the types of the key table, and what nobody knows."""

    values: Mapping[tuple[str, str], Value]
    """By dotted table and name."""
    unknown: tuple[Unknown, ...]


def parse(text: str) -> Document:
    """The file's values.

    :raise DecodeError: when the text is too long or no TOML, or a known key has the wrong type.
    """
    values: dict[tuple[str, str], Value] = {}
    unknown: list[Unknown] = []
    for table, name, found in _entries(_load(text)):
        key = KEYS.get((table, name))
        if key is None:
            unknown.append(Unknown(table, name[:_SHOWN], _closest(table, name)))
        else:
            values[table, name] = _typed(key, found)
    return Document(values, tuple(unknown))


def _load(text: str) -> dict[str, object]:
    if len(text) > MAX_TEXT:
        raise DecodeError(
            f"the configuration has {len(text)} characters, {MAX_TEXT} are read", code="config.size"
        )
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError also for numbers of thousands of digits
        reason = str(error)[:200] if isinstance(error, tomllib.TOMLDecodeError) else "too deep or too large"
        raise DecodeError(f"the configuration is not TOML: {reason}", code="config.syntax") from error


def _entries(root: Mapping[str, object]) -> Iterator[tuple[str, str, object]]:
    """Table, name and value of every key; what is no known table stands as a key of the one above it."""
    for first, outer in root.items():
        if first in TABLES:
            yield from _table(first, outer)
        elif isinstance(outer, dict) and any(table.startswith(f"{first}.") for table in TABLES):
            for second, inner in outer.items():
                if f"{first}.{second}" in TABLES:
                    yield from _table(f"{first}.{second}", inner)
                else:
                    yield "", f"{first}.{second}", inner
        else:
            yield "", first, outer


def _table(name: str, value: object) -> Iterator[tuple[str, str, object]]:
    if not isinstance(value, dict):
        raise DecodeError(f"{name} is not a table", code="config.type", remedy=f"write [{name}]")
    for key, entry in value.items():
        yield name, key, entry


def _closest(table: str, name: str) -> str:
    if len(name) > _CLOSEST_WITHIN:
        return ""
    known = [key for place, key in KEYS if place == table] if table else list(TABLES)
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.75)), "")


def _typed(key: Key, value: object) -> Value:
    typed = _as_kind(key.kind, value)
    if typed is None:
        raise DecodeError(
            f"[{key.table}] {key.name} is {_describe(value)}, expected {_EXPECTED[key.kind]}",
            code="config.type",
        )
    if "\0" in (typed if isinstance(typed, str) else "".join(typed) if isinstance(typed, tuple) else ""):
        raise DecodeError(f"[{key.table}] {key.name} contains a NUL", code="config.value")
    return typed


def _as_kind(kind: Kind, value: object) -> Value | None:
    if kind == "string":
        return value if isinstance(value, str) else None
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    if kind == "strings":
        if not isinstance(value, list):
            return None
        strings = tuple(one for one in value if isinstance(one, str))
        return strings if len(strings) == len(value) else None
    low, high = _RANGES[kind]
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        return None
    return value


def _describe(value: object) -> str:
    """What stands there, by its TOML name; a number that has the type but not the range is shown."""
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 64 else "a number beyond 64 bits"
    names = {str: "a string", float: "a floating-point number", list: "a list", dict: "a table"}
    return names.get(type(value), "a date or time")
