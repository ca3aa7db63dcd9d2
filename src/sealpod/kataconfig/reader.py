# SPDX-License-Identifier: Apache-2.0
"""Typed values of a configuration's document, or their defaults, and where each came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

from sealpod.kataconfig.document import Document
from sealpod.kataconfig.keys import HYPERVISOR, KEYS, Value

Source = Literal["default", "file", "annotation"]
_T = TypeVar("_T", str, bool, int)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from; ``name`` is the key with its table, or the annotation, else empty."""

    source: Source
    name: str = ""


class Reader:
    """Typed values of a document, remembering where each came from."""

    def __init__(self, document: Document) -> None:
        self.values = document.values
        self.origins: dict[str, Origin] = {}

    def has(self, name: str) -> bool:
        """The file sets this key of the hypervisor's table."""
        return (HYPERVISOR, name) in self.values

    def take(self, field: str, expected: type[_T], name: str, table: str = HYPERVISOR) -> _T:
        """A key's value, or its default; ``field`` is what it is called in the settings."""
        value = self._value(field, name, table)
        if not isinstance(value, expected):  # the key table and this module disagree: a fault of our own
            raise TypeError(name)
        return value

    def strings(self, field: str, name: str) -> tuple[str, ...]:
        """As :meth:`take`, for a list of strings."""
        value = self._value(field, name, HYPERVISOR)
        if not isinstance(value, tuple):
            raise TypeError(name)
        return value

    def _value(self, field: str, name: str, table: str) -> Value | None:
        found = (table, name) in self.values
        self.origins[field] = Origin("file", f"{table}.{name}") if found else Origin("default")
        return self.values[table, name] if found else KEYS[table, name].default
