# SPDX-License-Identifier: Apache-2.0
"""The JSON the admin API takes and gives: schemas that are both documentation and check.

What is here is the part of JSON Schema 2020-12 that OpenAPI 3.1 prints and :func:`check` enforces: types,
``properties`` with no others, ``required``, ``items``, greatest lengths, ranges and ``enum``. ``minLength``,
``minItems`` and ``pattern`` are printed only: what reads the values holds to them, with codes of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sealpod.errors import UsageError

Schema = Mapping[str, Any]

MAX_ITEMS: Final = 10_000
"""Entries of a list: digests of a policy for as many guests."""

_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "string": str,
    "integer": int,
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}
_WORDS: Final[Mapping[str, str]] = {
    "string": "a string",
    "integer": "a whole number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def text(description: str, *, most: int = 1024, **more: Any) -> dict[str, Any]:
    """A text of at most ``most`` characters."""
    return {"type": "string", "maxLength": most, "description": description, **more}


def number(description: str, most: int = 0xFFFF_FFFF, least: int = 0) -> dict[str, Any]:
    """A whole number."""
    return {"type": "integer", "minimum": least, "maximum": most, "description": description}


def flag(description: str) -> dict[str, Any]:
    """True or false."""
    return {"type": "boolean", "description": description}


def nullable(schema: Schema) -> dict[str, Any]:
    """The same, or null."""
    return {**schema, "type": [schema["type"], "null"]}


def array(items: Schema, description: str, most: int = MAX_ITEMS) -> dict[str, Any]:
    """A list of at most ``most``."""
    return {"type": "array", "items": items, "maxItems": most, "description": description}


def structure(properties: Mapping[str, Schema], *required: str, description: str = "") -> dict[str, Any]:
    """An object with these members and no others."""
    made: dict[str, Any] = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    if required:
        made["required"] = list(required)
    if description:
        made["description"] = description
    return made


def check(schema: Schema, value: object, where: str = "the body") -> None:
    """Return if ``value`` is what the schema says.

    :raise UsageError: ``admin.body`` and where it is not.
    """
    _check_type(schema, value, where)
    if isinstance(value, dict):
        _check_object(schema, value, where)
    elif isinstance(value, list):
        if len(value) > schema.get("maxItems", MAX_ITEMS):
            raise _wrong(where, f"has more than {schema.get('maxItems', MAX_ITEMS)} entries")
        for at, item in enumerate(value):
            check(schema["items"], item, f"{where}[{at}]")
    elif isinstance(value, str) and len(value) > schema.get("maxLength", 1024):
        raise _wrong(where, f"has more than {schema.get('maxLength', 1024)} characters")
    elif isinstance(value, int) and not isinstance(value, bool):
        _check_range(schema, value, where)
    if "enum" in schema and value not in schema["enum"]:
        raise _wrong(where, f"is none of {', '.join(map(str, schema['enum']))}")


def _check_type(schema: Schema, value: object, where: str) -> None:
    names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    for name in names:
        # bool is an int to Python and not to JSON.
        if isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool)):
            return
    raise _wrong(where, f"is not {' or '.join(_WORDS[name] for name in names)}")


def _check_range(schema: Schema, value: int, where: str) -> None:
    least, most = schema.get("minimum", 0), schema.get("maximum", 0xFFFF_FFFF)
    if not least <= value <= most:
        raise _wrong(where, f"is not from {least} to {most}")


def _check_object(schema: Schema, value: dict[str, object], where: str) -> None:
    properties = schema.get("properties")
    if properties is None:
        return  # Somebody else's document: whoever reads it checks it.
    for name in value:
        if name not in properties:
            raise _wrong(where, f"has a member nobody knows: {name[:40]!r}")
    for name in schema.get("required", ()):
        if name not in value:
            raise _wrong(where, f"lacks {name!r}")
    for name, item in value.items():
        check(properties[name], item, name if where == "the body" else f"{where}.{name}")


def _wrong(where: str, what: str) -> UsageError:
    # Never the value: it may be a secret.
    return UsageError(f"{where} {what}", code="admin.body", remedy="see /openapi.json for what is taken")
