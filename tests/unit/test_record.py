# SPDX-License-Identifier: Apache-2.0
"""Records behave as frozen dataclasses do; the same cases run on both."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import pytest

from sealpod.record import Record, field


class Point(Record):
    x: int
    y: int = 0
    tags: dict[str, int] = field(default_factory=dict, repr=False)
    kind: ClassVar[str] = "point"


class Named(Point):
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Twin:
    x: int
    y: int = 0
    tags: dict[str, int] = dataclasses.field(default_factory=dict, repr=False)
    kind: ClassVar[str] = "point"


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((1,), {}), ((1, 2), {}), ((), {"x": 1}), ((1,), {"tags": {"a": 1}}), ((1, 2, {"b": 2}), {})],
)
def test_construction_as_a_dataclass(args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    record, twin = Point(*args, **kwargs), Twin(*args, **kwargs)  # type: ignore[arg-type]
    assert (record.x, record.y, record.tags) == (twin.x, twin.y, twin.tags)
    assert repr(record) == repr(twin).replace("Twin", "Point")


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1, 2, {}, 4), {}), ((1,), {"x": 2}), ((1,), {"z": 2}), ((1,), {"kind": "x"})],
)
def test_wrong_arguments_as_a_dataclass(args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    for kind in (Point, Twin):
        with pytest.raises(TypeError):
            kind(*args, **kwargs)  # type: ignore[arg-type]


def test_defaults_are_not_shared() -> None:
    assert Point(1).tags is not Point(1).tags


def test_equality_and_hash_are_by_type_and_value() -> None:
    class Other(Record):
        x: int

    assert Point(1, 2) == Point(x=1, y=2)
    assert Point(1, 2) != Point(1, 3)
    assert Other(1) != Point(1)
    assert hash(Other(1)) == hash(Other(1))
    assert Named(1) != Point(1)


def test_records_are_frozen() -> None:
    point = Point(1)
    with pytest.raises(AttributeError):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del point.x
    with pytest.raises(AttributeError):
        point.z = 3  # type: ignore[attr-defined]


def test_fields_are_inherited_in_order_and_replaced_in_a_copy() -> None:
    named = Named(1, 2, {}, "n")
    assert repr(named) == "Named(x=1, y=2, name='n')"
    moved = named.replace(x=5)
    assert (moved.x, moved.name, named.x) == (5, "n", 1)
    with pytest.raises(TypeError):
        named.replace(z=1)
