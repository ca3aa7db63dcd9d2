# SPDX-License-Identifier: Apache-2.0
"""Lines on the console stay lines."""

from __future__ import annotations

import os

from sealpod.agent.console import MAX_LINE, Console


def test_lines() -> None:
    read, write = os.pipe()
    console = Console(write)
    console.say("agent ready")
    console.say("two\nlines \x1b[31mred")
    console.debug("quiet")
    console.verbose = True
    console.debug("loud")
    console.say("x" * 5000)
    lines = os.read(read, 65536).decode().splitlines()
    assert lines[:3] == ["sealpod: agent ready", "sealpod: two lines  [31mred", "sealpod: loud"]
    assert len(lines[3]) == len("sealpod: ") + MAX_LINE
    os.close(read)
    os.close(write)


def test_a_closed_console_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    Console(write).say("nobody hears")
