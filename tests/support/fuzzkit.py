# SPDX-License-Identifier: Apache-2.0
"""Fuzzing a decoder: damaged originals in, a value or one of the errors it may raise out, at a bounded cost.

Inputs are valid ones with a few edits: bits, bytes, numbers at the edges, pieces cut, doubled or exchanged
with another original, and now and then noise or an original many times over. The cost is held in memory, by
tracemalloc, and in processor time, by a timer of this process: a decoder that takes more ends with the input
that did it.

In the ordinary suite's short run hypothesis chooses, the same way every time, and shrinks what it finds. In a
long run a generator of pseudo-random numbers chooses, which is much faster, and what it finds is printed.
"""

from __future__ import annotations

import base64
import contextlib
import os
import random
import signal
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Literal, Protocol, TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from sealpod.errors import DecodeError, SealpodError

MEMORY_BASE = 256 * 1024
"""Bytes any decoder may take, whatever comes: objects of its values, imports at first use."""
MEMORY_FACTOR = 24
"""Bytes a decoder may take for each byte that comes."""
PROCESSOR_SECONDS = 10.0
"""What one input may take before it counts as a hang; a thousand times what the slowest one takes."""
MAX_GROWN = 1 << 20
"""Bytes of the largest inputs: an original many times over."""
SHORT_RUN = 120
"""Inputs of the run in the ordinary suite."""

T = TypeVar("T")
_EDITS = ("bit", "byte", "number", "cut", "drop", "double", "insert", "splice")
_ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")
_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)


@dataclass(frozen=True)
class Target:
    """A decoder with originals it accepts."""

    name: str
    decode: Callable[[bytes], object]
    """Decodes and looks at everything that is decoded only when asked for."""
    originals: Sequence[bytes]
    may_raise: tuple[type[SealpodError], ...] = (DecodeError,)
    """What it may end with; more than DecodeError only where a verification belongs to it."""


class Hang(Exception):
    """An input took too long."""


def fuzz(target: Target, *, seconds: float) -> int:
    """A short run, then what fits into ``seconds``; how many inputs it were. Fails with the one found."""
    for original in target.originals:
        target.decode(original)  # an original that is not accepted would make the edits worthless
    short = _short_run(target)
    return short + (long_run(target, seconds) if seconds else 0)


def _short_run(target: Target) -> int:
    inputs = 0

    @settings(
        max_examples=SHORT_RUN,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @seed(1)
    @given(data=_mutated(target.originals))
    def run(data: bytes) -> None:
        nonlocal inputs
        inputs += 1
        _check(target, data)

    run()
    return inputs


def long_run(target: Target, seconds: float) -> int:
    """Inputs for so many seconds; how many it were. What fails has the input in its notes."""
    chosen = _ByNumbers(random.Random(os.urandom(16)))
    end, inputs = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = _mutate(chosen, target.originals)
        inputs += 1
        try:
            _check(target, data)
        except BaseException as error:
            error.add_note(f"input, base64 of zlib: {base64.b64encode(zlib.compress(data)).decode()}")
            raise
    return inputs


def _check(target: Target, data: bytes) -> None:
    with _processor_limit(target, data), _memory() as peak, contextlib.suppress(*target.may_raise):
        target.decode(data)
    limit = MEMORY_BASE + MEMORY_FACTOR * len(data)
    assert peak[0] <= limit, f"{target.name}: {peak[0]} bytes of memory for {len(data)} of input"


@contextlib.contextmanager
def _memory() -> Iterator[list[int]]:
    peak = [0]
    tracemalloc.start()
    try:
        yield peak
    finally:
        peak[0] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


@contextlib.contextmanager
def _processor_limit(target: Target, data: bytes) -> Iterator[None]:
    def hang(number: int, frame: FrameType | None) -> None:
        raise Hang(f"{target.name}: {len(data)} bytes take more than {PROCESSOR_SECONDS} s")

    before = signal.signal(signal.SIGVTALRM, hang)
    signal.setitimer(signal.ITIMER_VIRTUAL, PROCESSOR_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


class _Choices(Protocol):
    """Where the edits' numbers come from."""

    def number(self, low: int, high: int) -> int: ...
    def pick(self, options: Sequence[T]) -> T: ...
    def noise(self, most: int) -> bytes: ...


class _ByHypothesis:
    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def number(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high))

    def pick(self, options: Sequence[T]) -> T:
        return self._draw(st.sampled_from(options))

    def noise(self, most: int) -> bytes:
        return self._draw(st.binary(max_size=most))


class _ByNumbers:
    def __init__(self, generator: random.Random) -> None:
        self._generator = generator

    def number(self, low: int, high: int) -> int:
        return self._generator.randint(low, high)

    def pick(self, options: Sequence[T]) -> T:
        return self._generator.choice(options)

    def noise(self, most: int) -> bytes:
        return self._generator.randbytes(self._generator.randint(0, most))


@st.composite
def _mutated(draw: st.DrawFn, originals: Sequence[bytes]) -> bytes:
    return _mutate(_ByHypothesis(draw), originals)


def _mutate(choices: _Choices, originals: Sequence[bytes]) -> bytes:
    """An original with one to four edits, or rarely noise, or a large input."""
    kind = choices.number(0, 39)
    original = choices.pick(originals)
    if kind == 0:
        return choices.noise(400)
    if kind == 1:
        return (original * choices.number(2, 64))[:MAX_GROWN]
    data = bytearray(original)
    for _ in range(choices.number(1, 4)):
        _edit(choices, data, originals)
    return bytes(data)


def _edit(choices: _Choices, data: bytearray, originals: Sequence[bytes]) -> None:
    last = max(len(data) - 1, 0)
    # Formats have their numbers at the start or, as firmware images, at the end.
    near = choices.pick(("start", "end", "anywhere"))
    distance = choices.number(0, last if near == "anywhere" else min(last, 1200))
    place = last - distance if near == "end" else distance
    kind = choices.pick(_EDITS)
    size = choices.number(1, 64)
    if kind == "cut":
        del data[place:]
    elif kind == "drop":
        del data[place : place + size]
    elif kind == "double":
        data[place:place] = data[place : place + size]
    elif kind == "insert":
        data[place:place] = choices.noise(16)
    elif kind == "splice":
        other = choices.pick(originals)
        data[place:] = other[choices.number(0, len(other)) :]
    elif data:
        _overwrite(choices, data, place, kind)


def _overwrite(choices: _Choices, data: bytearray, place: int, kind: str) -> None:
    if kind == "bit":
        data[place] ^= 1 << choices.number(0, 7)
    elif kind == "byte":
        data[place] = choices.number(0, 255)
    else:
        width = choices.pick((1, 2, 4, 8))
        value = choices.pick(_EDGES) % (1 << 8 * width)
        data[place : place + width] = value.to_bytes(width, choices.pick(_ORDERS))
