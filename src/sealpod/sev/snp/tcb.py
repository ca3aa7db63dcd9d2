# SPDX-License-Identifier: Apache-2.0
"""The TCB version: how new the firmware and microcode of a platform are (SEV-SNP ABI, TCB_VERSION).

Eight bytes, each a security patch level (SPL)::

    byte            0           1           2     3     4   5   6     7
    Milan, Genoa    bootloader  tee         -     -     -   -   snp   microcode
    Turin           fmc         bootloader  tee   snp   -   -   -     microcode

Read in the wrong layout, levels are another part's, so a layout is always named.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from typing import Self

from sealpod.errors import DecodeError, UsageError

SIZE = 8


class TcbLayout(Enum):
    """Which part stands in which byte."""

    MILAN = (None, 0, 1, 6, 7)
    """Milan and Genoa, with Bergamo and Siena."""
    TURIN = (0, 1, 2, 3, 7)


@dataclass(frozen=True, slots=True)
class TcbVersion:
    """Security patch levels, 0 to 255. ``fmc`` exists from Turin on.

    :raise UsageError: a level that is not one byte.
    """

    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int | None = None

    def __post_init__(self) -> None:
        for name, level in self.levels():
            if not 0 <= level <= 0xFF:
                raise UsageError(f"TCB level {name} {level} is not one byte", code="snp.tcb")

    @classmethod
    def decode(cls, data: bytes, layout: TcbLayout) -> Self:
        """:raise DecodeError: ``data`` is not 8 bytes."""
        if len(data) != SIZE:
            raise DecodeError(f"a TCB version has {SIZE} bytes, got {len(data)}", code="snp.report")
        fmc, *others = (None if place is None else data[place] for place in layout.value)
        bootloader, tee, snp, microcode = (level or 0 for level in others)
        return cls(bootloader, tee, snp, microcode, fmc)

    def levels(self) -> tuple[tuple[str, int], ...]:
        """The parts this version has, by name."""
        pairs = ((one.name, getattr(self, one.name)) for one in fields(self))
        return tuple((name, level) for name, level in pairs if level is not None)

    def below(self, minimum: TcbVersion) -> tuple[str, ...]:
        """The parts that are older than ``minimum`` demands, by name; a part that is missing is."""
        own = dict(self.levels())
        return tuple(name for name, level in minimum.levels() if own.get(name, -1) < level)

    def __str__(self) -> str:
        return ", ".join(f"{name} {level}" for name, level in self.levels())
