# SPDX-License-Identifier: Apache-2.0
"""The console keeps the last lines of an untrusted guest, bounded and fit for a terminal."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from sealpod.qemu.console import MAXIMUM_LINE, MAXIMUM_LINES, Console, clean


def test_escape_sequences_and_control_characters_go() -> None:
    assert clean("\x1b[2J\x1b[001;001H\x1b[=3hsealpod: init\r") == "sealpod: init"
    assert clean("a\x07b\x00c\u202ed") == "abcd"


@given(st.text())
def test_a_cleaned_line_is_printable_and_bounded(text: str) -> None:
    line = clean(text)
    assert line.isprintable()
    assert len(line) <= MAXIMUM_LINE


def test_lines_are_kept_in_order_and_bounded() -> None:
    console = Console()
    console.feed(b"".join(b"line %d\n" % number for number in range(MAXIMUM_LINES * 2)))
    console.feed(b"no newline yet")
    assert console.tail(2) == (f"line {MAXIMUM_LINES * 2 - 1}", "no newline yet")
    assert len(console.tail(10**6)) == MAXIMUM_LINES + 1


def test_an_endless_line_does_not_grow() -> None:
    console = Console()
    for _ in range(100):
        console.feed(b"x" * 65536)
    assert len(console.tail()[0]) == MAXIMUM_LINE


@given(st.lists(st.binary(max_size=8), max_size=30))
def test_pieces_do_not_matter(pieces: list[bytes]) -> None:
    whole, split = Console(), Console()
    data = b"".join(piece for piece in pieces if piece.isascii())
    whole.feed(data)
    for byte in data:
        split.feed(bytes([byte]))
    assert whole.tail(100) == split.tail(100)


def test_watching_sees_past_and_coming_lines() -> None:
    async def scenario() -> None:
        console = Console()
        console.feed(b"sealpod: init\n")
        assert console.watch("sealpod: init").is_set()
        ready = console.watch("agent ready")
        console.feed(b"sealpod: agent re")
        assert not ready.is_set()
        console.feed(b"ady\n")
        assert ready.is_set()

    asyncio.run(scenario())
