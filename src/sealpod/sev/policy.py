# SPDX-License-Identifier: Apache-2.0
"""The guest policy word of SEV and SEV-ES (SEV API 0.24, guest policy).

A little-endian u32: bits 0-5 flags, bits 6-15 reserved (zero), bits 16-23 the lowest firmware API major
version the owner accepts, bits 24-31 the minor one. The word is MACed exactly as it stands; splitting the
version into nibbles, as a widely used library does, makes the firmware refuse every policy with a minimum.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import IntFlag
from typing import Final, Self

from sealpod.errors import DecodeError, UsageError

_WORD = struct.Struct("<I")
_MAX_WORD: Final = 0xFFFF_FFFF
_FLAG_BITS: Final = 0x003F
_RESERVED_BITS: Final = 0xFFC0
_TEXT = re.compile(r"[0-9]{1,10}|0[xX][0-9a-fA-F]{1,8}", re.ASCII)


class PolicyFlag(IntFlag):
    """Bits 0-5 of the policy."""

    NODBG = 0x01
    """The firmware's debug commands, which read guest memory, are forbidden."""
    NOKS = 0x02
    """No other guest may share this one's memory key."""
    ES = 0x04
    """SEV-ES required: register state is encrypted too."""
    NOSEND = 0x08
    """The guest must not be sent to another platform."""
    DOMAIN = 0x10
    """The guest stays with platforms of the same OCA."""
    SEV = 0x20
    """A receiving platform must be SEV capable."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy word, 0 to 2^32-1, kept verbatim with its reserved bits.

    :raise DecodeError: when the number does not fit 32 bits.
    """

    value: int

    def __post_init__(self) -> None:
        if not 0 <= self.value <= _MAX_WORD:
            raise DecodeError(f"policy {self.value} does not fit 32 bits", code="policy.range")

    @classmethod
    def from_int(cls, value: int) -> Self:
        """:raise DecodeError: when the number does not fit 32 bits."""
        return cls(value)

    @classmethod
    def parse(cls, text: str) -> Self:
        """A policy from decimal digits or ``0x`` and hexadecimal ones.

        :raise UsageError: when the text is anything else or the number does not fit 32 bits.
        """
        if _TEXT.fullmatch(text) is None:
            raise UsageError(f"not a policy: {text[:40]!r} (use decimal or 0x...)", code="policy.syntax")
        value = int(text, 16 if text[:2].lower() == "0x" else 10)
        if value > _MAX_WORD:
            raise UsageError(f"policy {text} does not fit 32 bits", code="policy.range")
        return cls(value)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """:raise DecodeError: when ``data`` is not 4 bytes."""
        if len(data) != _WORD.size:
            raise DecodeError(f"a policy has 4 bytes, got {len(data)}", code="policy.length")
        return cls(*_WORD.unpack(data))

    def encode(self) -> bytes:
        """4 bytes, little-endian: as it is MACed and measured."""
        return _WORD.pack(self.value)

    @property
    def flags(self) -> PolicyFlag:
        """The six defined flags."""
        return PolicyFlag(self.value & _FLAG_BITS)

    @property
    def reserved(self) -> int:
        """Bits 6-15 in place; a firmware refuses a session whose policy has any."""
        return self.value & _RESERVED_BITS

    @property
    def min_api(self) -> tuple[int, int]:
        """Lowest firmware API version accepted, as (major, minor)."""
        return self.value >> 16 & 0xFF, self.value >> 24

    def describe(self) -> str:
        """``0x18000003 (NODBG, NOKS, firmware API 0.24 or later)``."""
        words = [str(flag.name) for flag in PolicyFlag if flag in self.flags]
        if self.min_api != (0, 0):
            words.append("firmware API {}.{} or later".format(*self.min_api))
        if self.reserved:
            words.append(f"reserved bits {self.reserved:#06x}")
        return f"0x{self.value:08x} ({', '.join(words) or 'no restriction'})"
