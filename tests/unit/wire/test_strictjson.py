# SPDX-License-Identifier: Apache-2.0
"""Strict JSON: what Python's parser lets pass and an attacker could use."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError
from sealpod.wire import strictjson

HOSTILE = {
    "empty": b"",
    "not an object": b"[1]",
    "name twice": b'{"a":1,"a":2}',
    "name twice, deep": b'{"x":[{"a":1,"a":2}]}',
    "not UTF-8": b'{"a":"\xff"}',
    "lone surrogate": b'{"a":"\\ud800"}',
    "lone surrogate as a name": b'{"\\uDC00":1}',
    "not a number": b'{"a":NaN}',
    "infinity": b'{"a":-Infinity}',
    "many digits": b'{"a":' + b"9" * 5000 + b"}",
    "deep arrays": b'{"a":' + b"[" * 100_000,
    "trailing data": b"{} x",
    "byte order mark": b"\xef\xbb\xbf{}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refused(name: str) -> None:
    with pytest.raises(DecodeError):
        strictjson.parse_object(HOSTILE[name], what="x")


def test_a_pair_of_surrogates_is_a_character() -> None:
    assert strictjson.parse_object(b'{"a":"\\ud83d\\ude00"}', what="x") == {"a": "\U0001f600"}


def test_the_limit_comes_first() -> None:
    with pytest.raises(DecodeError, match="11 bytes, more than the limit of 10"):
        strictjson.parse_object(b"not JSON at", what="x", limit=10)


def test_fields() -> None:
    document = strictjson.parse_object(b'{"t":"x","n":3,"l":["a"],"m":{"k":"v"},"z":null,"b":true}', what="d")
    assert strictjson.text(document, "t", what="d") == "x"
    assert strictjson.optional_text(document, "z", what="d") == ""
    assert strictjson.integer(document, "n", what="d") == 3
    assert strictjson.array(document, "l", str, what="d") == ["a"]
    assert strictjson.array(document, "z", str, what="d") == []
    assert strictjson.text_map(document, "m", what="d") == {"k": "v"}
    assert strictjson.member(document, "none", what="d") == {}
    for read, name in [
        (strictjson.text, "n"),
        (strictjson.text, "z"),
        (strictjson.optional_text, "l"),
        (strictjson.integer, "b"),
        (strictjson.integer, "t"),
        (strictjson.text_map, "l"),
        (strictjson.member, "t"),
    ]:
        with pytest.raises(DecodeError, match=name):
            read(document, name, what="d")
    with pytest.raises(DecodeError):
        strictjson.array(document, "l", int, what="d")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), VALUES))
def test_round_trip(document: dict[str, object]) -> None:
    assert strictjson.parse_object(strictjson.encode(document), what="x") == document


@given(st.binary(max_size=60))
def test_garbage(data: bytes) -> None:
    with pytest.raises(DecodeError):
        strictjson.parse_object(b"\0" + data, what="x")
