# SPDX-License-Identifier: Apache-2.0
"""The policy of an SEV-SNP guest, and what its platform says of itself (SNP ABI, POLICY, PLATFORM_INFO)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

from sealpod.errors import DecodeError

_MAX: int = (1 << 64) - 1


class SnpPolicyFlag(IntFlag):
    """Bits 16 to 25. Some allow the host something, some demand something of it."""

    SMT = 1 << 16
    """Allowed: simultaneous multithreading."""
    RESERVED_ONE = 1 << 17
    """Must be 1."""
    MIGRATE_MA = 1 << 18
    """Allowed: a migration agent, which sees the guest's secrets."""
    DEBUG = 1 << 19
    """Allowed: debugging, which reads guest memory."""
    SINGLE_SOCKET = 1 << 20
    """Demanded: one socket only."""
    CXL_ALLOW = 1 << 21
    """Allowed: CXL devices and memory."""
    MEM_AES_256_XTS = 1 << 22
    """Demanded: AES-256-XTS for memory."""
    RAPL_DIS = 1 << 23
    """Demanded: no running average power limit, which leaks."""
    CIPHERTEXT_HIDING = 1 << 24
    """Demanded: ciphertext hidden from the host."""
    PAGE_SWAP_DISABLE = 1 << 25
    """Demanded: no swapping of guest pages."""


ALLOWING = SnpPolicyFlag.SMT | SnpPolicyFlag.MIGRATE_MA | SnpPolicyFlag.DEBUG | SnpPolicyFlag.CXL_ALLOW
"""Flags that give the host something."""
DEMANDING = (
    SnpPolicyFlag.SINGLE_SOCKET
    | SnpPolicyFlag.MEM_AES_256_XTS
    | SnpPolicyFlag.RAPL_DIS
    | SnpPolicyFlag.CIPHERTEXT_HIDING
    | SnpPolicyFlag.PAGE_SWAP_DISABLE
)
"""Flags that take something from the host."""


class PlatformInfo(IntFlag):
    """What the platform says of itself."""

    SMT = 1 << 0
    TSME = 1 << 1
    ECC = 1 << 2
    RAPL_DIS = 1 << 3
    CIPHERTEXT_HIDING = 1 << 4
    ALIAS_CHECK_COMPLETE = 1 << 5
    TIO = 1 << 7


@dataclass(frozen=True, slots=True)
class SnpPolicy:
    """The policy as it stands: 64 bits, kept verbatim.

    :raise DecodeError: a number that does not fit.
    """

    value: int

    def __post_init__(self) -> None:
        if not 0 <= self.value <= _MAX:
            raise DecodeError(f"SNP policy {self.value} does not fit 64 bits", code="policy.range")

    @property
    def flags(self) -> SnpPolicyFlag:
        """The defined flags."""
        return SnpPolicyFlag(self.value & sum(SnpPolicyFlag))

    @property
    def unknown(self) -> int:
        """Bits above the ABI version that are not defined."""
        return (self.value & ~0xFFFF) & ~sum(SnpPolicyFlag)

    @property
    def min_abi(self) -> tuple[int, int]:
        """The lowest ABI version the guest runs on, as (major, minor)."""
        return self.value >> 8 & 0xFF, self.value & 0xFF

    def describe(self) -> str:
        """``0x0000000000030000 (SMT, ABI 0.0 or later)``."""
        names = [str(flag.name) for flag in self.flags & ~SnpPolicyFlag.RESERVED_ONE]
        names.append("ABI {}.{} or later".format(*self.min_abi))
        return f"{self.value:#018x} ({', '.join(names)})"
