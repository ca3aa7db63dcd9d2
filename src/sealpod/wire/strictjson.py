# SPDX-License-Identifier: Apache-2.0
"""JSON from outside: one object, capped before parsing, and :class:`DecodeError` for everything else.

Python's parser is lenient where an attacker gains from it: the last of two equal names wins, nesting ends in
``RecursionError``, numbers of many digits in ``ValueError``, lone surrogates fail when printed. Here a
document either is an RFC 8259 object (section 4: unique names) with encodable text, or it is refused.
The typed accessors below say in one line what a field must be; ``null`` counts as absent, as Go writes it.
"""

from __future__ import annotations

import json
from typing import Final, Never, TypeVar

from sealpod.errors import DecodeError

DEFAULT_LIMIT: Final = 4 * 1024 * 1024  # bytes; the distribution spec's limit for a manifest
_LONE_SURROGATE_HINT: Final = "\\ud"  # only an escape can make one: UTF-8 decoding refuses the raw form

T = TypeVar("T")


def parse_object(data: bytes, *, what: str, limit: int = DEFAULT_LIMIT) -> dict[str, object]:
    """The JSON object in ``data`` (UTF-8, at most ``limit`` bytes). ``what`` names it in the error."""
    if len(data) > limit:
        raise DecodeError(f"{what} has {len(data)} bytes, more than the limit of {limit}")
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        if _LONE_SURROGATE_HINT in text.lower():
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"{what} is not valid JSON: {type(error).__name__}") from error
    if not isinstance(value, dict):
        raise DecodeError(f"{what} is not a JSON object")
    return value


def encode(value: object) -> bytes:
    """Compact UTF-8 JSON, members in the order given, as Go's encoder writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def text(document: dict[str, object], name: str, *, what: str) -> str:
    """The mandatory string ``name``."""
    value = document.get(name)
    if not isinstance(value, str):
        raise DecodeError(f"{what}: {name!r} is not a string")
    return value


def optional_text(document: dict[str, object], name: str, *, what: str) -> str:
    """The string ``name``, empty when absent."""
    return "" if document.get(name) is None else text(document, name, what=what)


def integer(document: dict[str, object], name: str, *, what: str) -> int:
    """The mandatory integer ``name``, 0 to 2**63 - 1."""
    value = document.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise DecodeError(f"{what}: {name!r} is not a non-negative integer")
    return value


def array(document: dict[str, object], name: str, kind: type[T], *, what: str) -> list[T]:
    """The array ``name`` whose elements all are of type ``kind``, empty when absent."""
    value = document.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise DecodeError(f"{what}: {name!r} is not an array of {kind.__name__}")
    return value


def text_map(document: dict[str, object], name: str, *, what: str) -> dict[str, str]:
    """The object ``name`` of strings, empty when absent."""
    value = document.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise DecodeError(f"{what}: {name!r} is not an object of strings")
    return value


def member(document: dict[str, object], name: str, *, what: str) -> dict[str, object]:
    """The object ``name``, empty when absent."""
    value = document.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DecodeError(f"{what}: {name!r} is not an object")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return result


def _no_constant(name: str) -> Never:
    raise ValueError(f"{name} is not JSON")
