# SPDX-License-Identifier: Apache-2.0
"""Fuzzing a decoder: damaged originals in, a value or one of the errors it may raise out, at a bounded cost.

Inputs are valid ones with a few edits: bits, bytes, numbers at the edges, pieces cut, doubled or exchanged
with another original, and now and then noise or an original many times over. The cost is held in memory, by
tracemalloc, and in processor time, by a timer of this process: a decoder that takes more ends with the input
that did it.
"""

from __future__ import annotations

import contextlib
import signal
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType

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
LONG_RUN = 2000
"""Inputs between two looks at the clock in a long run."""

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
    """Fuzz for so many seconds, or for one short run; how many inputs it were. Fails with the input found."""
    for original in target.originals:
        target.decode(original)  # an original that is not accepted would make the edits worthless
    inputs = 0

    def check(data: bytes) -> None:
        nonlocal inputs
        inputs += 1
        _check(target, data)

    start, round_ = time.monotonic(), 0
    while True:
        examples = LONG_RUN if seconds else SHORT_RUN
        _run(check, mutated(target.originals), examples, round_)
        round_ += 1
        if time.monotonic() - start >= seconds:
            return inputs


def _run(
    check: Callable[[bytes], None], inputs: st.SearchStrategy[bytes], examples: int, number: int
) -> None:
    wanted = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )

    @wanted
    @seed(number)
    @given(data=inputs)
    def run(data: bytes) -> None:
        check(data)

    run()


def _check(target: Target, data: bytes) -> None:
    # Twice: what is imported or cached at first use is not the input's cost.
    with _processor_limit(target, data), contextlib.suppress(*target.may_raise):
        target.decode(data)
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


@st.composite
def mutated(draw: st.DrawFn, originals: Sequence[bytes]) -> bytes:
    """An original with one to four edits, or rarely noise, or a large input."""
    kind = draw(st.integers(0, 19))
    original = draw(st.sampled_from(originals))
    if kind == 0:
        return draw(st.binary(max_size=400))
    if kind == 1:
        times = draw(st.integers(2, 64))
        return (original * times)[:MAX_GROWN]
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        _edit(draw, data, originals)
    return bytes(data)


def _edit(draw: st.DrawFn, data: bytearray, originals: Sequence[bytes]) -> None:
    last = max(len(data) - 1, 0)
    # Formats have their numbers at the start or, as firmware images, at the end.
    near = draw(st.sampled_from(("start", "end", "anywhere")))
    distance = draw(st.integers(0, last if near == "anywhere" else min(last, 1200)))
    place = last - distance if near == "end" else distance
    kind = draw(st.sampled_from(("bit", "byte", "number", "cut", "drop", "double", "insert", "splice")))
    size = draw(st.integers(1, 64))
    if kind == "cut":
        del data[place:]
    elif kind == "drop":
        del data[place : place + size]
    elif kind == "double":
        data[place:place] = data[place : place + size]
    elif kind == "insert":
        data[place:place] = draw(st.binary(max_size=16))
    elif kind == "splice":
        other = draw(st.sampled_from(originals))
        data[place:] = other[draw(st.integers(0, len(other))) :]
    elif data:
        _overwrite(draw, data, place, kind)


def _overwrite(draw: st.DrawFn, data: bytearray, place: int, kind: str) -> None:
    if kind == "bit":
        data[place] ^= 1 << draw(st.integers(0, 7))
    elif kind == "byte":
        data[place] = draw(st.integers(0, 255))
    else:
        width = draw(st.sampled_from((1, 2, 4, 8)))
        order = draw(st.sampled_from(("little", "big")))
        value = draw(st.sampled_from(_EDGES)) % (1 << 8 * width)
        data[place : place + width] = value.to_bytes(width, order)  # type: ignore[arg-type]
