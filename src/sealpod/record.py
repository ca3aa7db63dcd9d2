# SPDX-License-Identifier: Apache-2.0
"""``Record``: frozen values without generated code.

A dataclass writes and compiles five functions per class when its module is imported, and importing the
``dataclasses`` module brings ``inspect`` along. An emulated guest pays for both on every start: a third of
its imports. The packages that run in the guest derive from ``Record`` instead; type checkers treat it as a
frozen dataclass, and so do readers. Elsewhere dataclasses stay.

>>> class Point(Record):
...     x: int
...     y: int = 0
>>> Point(1)
Point(x=1, y=0)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final, NoReturn, Self, dataclass_transform


class _Field:
    """A field with a default made anew for each record, or left out of the text form."""

    __slots__ = ("factory", "shown")

    def __init__(self, factory: Callable[[], Any], shown: bool) -> None:
        self.factory = factory
        self.shown = shown


def field(*, default_factory: Callable[[], Any], repr: bool = True) -> Any:  # noqa: A002 - dataclasses' name
    """As :func:`dataclasses.field`, for the two arguments there is use for."""
    return _Field(default_factory, repr)


_REQUIRED: Final = object()


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Record:
    """Base of frozen values: fields are the annotated names, in order; equality and hash are by value."""

    _fields: ClassVar[dict[str, Any]] = {}
    """Field name to its default: a value, a ``_Field``, or ``_REQUIRED``."""

    def __init_subclass__(cls) -> None:
        fields = dict(cls._fields)
        for name, annotation in cls.__dict__.get("__annotations__", {}).items():  # noqa: RUF063 - inspect is what is avoided here
            if not str(annotation).startswith("ClassVar"):
                fields[name] = cls.__dict__.get(name, _REQUIRED)
        cls._fields = fields

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        fields = self._fields
        if len(args) > len(fields):
            raise TypeError(f"{type(self).__name__} takes {len(fields)} values, {len(args)} were given")
        values = dict(zip(fields, args, strict=False))
        for name, value in kwargs.items():
            if name not in fields or name in values:
                raise TypeError(f"{type(self).__name__} got an unexpected or repeated {name!r}")
            values[name] = value
        for name, default in fields.items():
            if name not in values:
                values[name] = self._default(name, default)
        self.__dict__.update(values)

    def _default(self, name: str, default: Any) -> Any:
        if default is _REQUIRED:
            raise TypeError(f"{type(self).__name__} needs {name!r}")
        return default.factory() if isinstance(default, _Field) else default

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return type(self)(**{**{name: self.__dict__[name] for name in self._fields}, **changes})

    def _values(self) -> tuple[Any, ...]:
        return tuple(self.__dict__[name] for name in self._fields)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        shown = (
            f"{name}={self.__dict__[name]!r}"
            for name, default in self._fields.items()
            if not isinstance(default, _Field) or default.shown
        )
        return f"{type(self).__name__}({', '.join(shown)})"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen")
