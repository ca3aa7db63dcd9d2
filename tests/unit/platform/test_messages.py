# SPDX-License-Identifier: Apache-2.0
"""Messages between client and process: round trip, and nothing but DecodeError from any bytes."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError
from sealpod.platform.model.messages import MAX_MESSAGE, Request, Response

NAMES = st.text(min_size=1, max_size=8)
VALUES = st.dictionaries(NAMES, st.integers(0, 2**64 - 1), max_size=4)
PARTS = st.dictionaries(NAMES, st.binary(max_size=64), max_size=3)
NUMBERS = st.integers(0, 2**32)


@given(st.builds(Request, NUMBERS, NUMBERS, VALUES, PARTS))
def test_request_round_trip(request_: Request) -> None:
    assert Request.decode(request_.encode()) == request_


@given(st.builds(Response, NUMBERS, NUMBERS, VALUES, PARTS, st.text(), NAMES, NAMES, NAMES, NAMES))
def test_response_round_trip(response: Response) -> None:
    assert Response.decode(response.encode()) == response


def test_every_truncation_and_extension_is_refused() -> None:
    packet = Request(1, 2, {"handle": 3}, {"godh": b"abc", "session": b"de"}).encode()
    for length in range(len(packet)):
        with pytest.raises(DecodeError):
            Request.decode(packet[:length])
    with pytest.raises(DecodeError):
        Request.decode(packet + b"x")


@given(st.binary(max_size=200))
def test_any_bytes_give_a_message_or_decode_error(data: bytes) -> None:
    for kind in (Request, Response):
        try:
            kind.decode(data)
        except DecodeError:
            continue


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
)


@given(JSON, st.binary(max_size=8))
def test_any_json_gives_a_message_or_decode_error(head: object, payload: bytes) -> None:
    encoded = json.dumps(head).encode()
    packet = struct.pack("<I", len(encoded)) + encoded + payload
    for kind in (Request, Response):
        try:
            kind.decode(packet)
        except DecodeError:
            continue


@pytest.mark.parametrize(
    "head",
    [
        b"[" * 20000,
        b'{"serial":true,"command":1,"values":{},"parts":[]}',
        b'{"serial":1,"command":1,"values":[],"parts":[]}',
        b'{"serial":1,"command":1,"values":{"a":"1"},"parts":[]}',
        b'{"serial":1,"command":1,"values":{},"parts":[["a",-1]]}',
        b'{"serial":1,"command":1,"values":{},"parts":[["a",0],["a",0]]}',
        b'{"serial":1,"command":1,"values":{}}',
        b"\xff",
    ],
)
def test_malformed_headers_are_refused(head: bytes) -> None:
    with pytest.raises(DecodeError):
        Request.decode(struct.pack("<I", len(head)) + head)


def test_a_message_has_a_limit() -> None:
    with pytest.raises(DecodeError):
        Request.decode(bytes(MAX_MESSAGE + 1))
