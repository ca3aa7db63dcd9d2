# SPDX-License-Identifier: Apache-2.0
"""Filters as containerd's metadata store and its command line write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import UsageError
from sealpod.snapshotter.filters import parse
from sealpod.snapshotter.rows import Place, Snapshot
from sealpod.wire.snapshotapi import ACTIVE, COMMITTED, VIEW


def snapshot(name: str = "k8s.io/3/c", parent: str = "", kind: int = ACTIVE, **labels: str) -> Snapshot:
    named = {key.replace("__", "/"): value for key, value in labels.items()}
    return Snapshot(1, name, None, parent, kind, Place.GUEST, 0, 0, named)


@pytest.mark.parametrize(
    ("filters", "matches"),
    [
        ([], True),
        ([""], True),
        (["name==k8s.io/3/c"], True),
        (["name!=k8s.io/3/c"], False),
        (['name=="k8s.io/3/c"'], True),
        (["name"], True),
        (["parent"], False),
        (['parent==""'], True),
        (["parent==x"], False),
        (["kind==active"], True),
        (["kind==Active"], True),
        (["kind==committed"], False),
        (["labels.app==web"], True),
        (['labels."app"=="web"'], True),
        (["labels.app"], True),
        (["labels.no"], False),
        (["labels.no!=x"], True),
        (['labels."containerd.io/snapshot.ref"==sha256:12'], True),
        (['labels."containerd.io/snapshot.ref"==sha256:12,parent==""'], True),
        (['labels."containerd.io/snapshot.ref"==sha256:12,parent=="p"'], False),
        (["name==a", "kind==active"], True),
        (["name==a", "kind==view"], False),
        (['labels.odd=="a\\"b,c"'], True),
    ],
)
def test_filters(filters: list[str], matches: bool) -> None:
    one = snapshot(app="web", odd='a"b,c')
    one = Snapshot(
        *(one.id, one.name, None, "", one.kind, one.place, 0, 0),
        labels={**one.labels, "containerd.io/snapshot.ref": "sha256:12"},
    )
    assert parse(filters)(one) is matches


@pytest.mark.parametrize(
    "text",
    [
        *('kind=="x', "size==3", "labels==x", "labels", "a b", "name=x", "name==", "name==a,", ","),
        *("name.x==y", 'name=="\\q"', "name~=a"),
    ],
)
def test_what_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse([text])


def test_filters_are_counted() -> None:
    with pytest.raises(UsageError):
        parse(["name"] * 65)


@given(st.text(max_size=40))
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    try:
        found = parse([text])
    except UsageError:
        return
    for kind in (VIEW, ACTIVE, COMMITTED):
        assert found(snapshot(kind=kind)) in (True, False)
