# SPDX-License-Identifier: Apache-2.0
"""Guest memory as the firmware sees it: ranges of guest physical addresses that can be read and written.

A real firmware encrypts the pages it measures. The model does not: the host reads a model guest's memory
whatever happens, which is one of the reasons why it never lends trust.
"""

from __future__ import annotations

from typing import Protocol


class Memory(Protocol):
    """A piece of guest physical memory, ``size`` bytes from ``base``."""

    @property
    def base(self) -> int:
        """Guest physical address of the first byte."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    def read(self, gpa: int, size: int) -> bytes:
        """``size`` bytes at ``gpa``; the caller has checked that :func:`covers` holds."""

    def write(self, gpa: int, data: bytes) -> None:
        """Put ``data`` at ``gpa``; the caller has checked that :func:`covers` holds."""


def covers(memory: Memory, gpa: int, size: int) -> bool:
    """Whether ``memory`` holds all of ``size`` bytes at ``gpa``."""
    return memory.base <= gpa and gpa + size <= memory.base + memory.size
