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


OOPS = """\
sealpod: agent ready
[   45.303001] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI
[   45.303102] CPU: 0 UID: 0 PID: 0 Comm: swapper/0 Not tainted 6.12.95+deb12-cloud-amd64 #1  Debian
[   45.303130] RIP: 0010:sched_cfs_period_timer+0x9e/0x2a0
[   45.303220] Code: 39 d0 48 0f 47 c2 45 85 e4 75 04 83 43 18 01 44 8b 83 60 01 00 00 44 01 7b
[   45.303255] RSP: 0018:ffffd18480003ed0 EFLAGS: 00000046
[   45.303297] RAX: 0000000000155cc0 RBX: ffff8d63c455ce00 RCX: 0000000000000000
[   45.303377] R10: 0000000000000f8f R11: 0000000000000004 R12: 0000000000000000
[   45.303434] FS:  0000000000000000(0000) GS:ffff8d63c4400000(0000) knlGS:0000000000000000
[   45.303468] CS:  0010 DS: 0000 ES: 0000 CR0: 0000000080050033
[   45.303495] CR2: 000055858d77e218 CR3: 0000000002174000 CR4: 00000000000006f0
[   45.303500] Call Trace:
[   45.303510]  <IRQ>
[   45.303520]  ? die+0x32/0x80
[   45.303530]  __hrtimer_run_queues+0x10f/0x2a0
[   45.303540]  </IRQ>
[   45.303550] Modules linked in: virtio_net virtio_console
[   45.303560] ---[ end trace 0000000000000000 ]---
[   45.304174] Kernel panic - not syncing: Fatal exception in interrupt
[   45.307730] Kernel Offset: 0xe800000 from 0xffffffff81000000
"""


def test_of_an_oops_the_words_are_kept() -> None:
    console = Console()
    console.feed(OOPS.encode())
    told = console.words(5)
    assert [line.partition("] ")[2].split(":")[0] for line in told[1:]] == [
        "Oops",
        "CPU",
        "RIP",
        "Kernel panic - not syncing",
    ]
    assert told[0] == "sealpod: agent ready"
    assert "Code: 39 d0" in console.tail(16)[0]


@given(st.lists(st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1), max_size=20))
def test_what_is_no_oops_is_kept_whole(lines: list[str]) -> None:
    console = Console()
    console.feed("".join(f"[    1.000000] {line}\n" for line in lines).encode())
    assert console.words() == console.tail()
