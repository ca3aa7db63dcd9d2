# SPDX-License-Identifier: Apache-2.0
"""The firmware version a platform reports, as it enters the launch measurement."""

from __future__ import annotations

from dataclasses import dataclass

from sealpod.errors import DecodeError
from sealpod.sev.policy import Policy


@dataclass(frozen=True, slots=True)
class FirmwareVersion:
    """API version and build number of an SEV firmware.

    Each is one byte. A larger number is refused rather than truncated: a claim of major 257 would otherwise
    pass a minimum-version rule as 257 and the measurement as 1.

    :raise DecodeError: when a part is not 0 to 255.
    """

    api_major: int
    api_minor: int
    build: int

    def __post_init__(self) -> None:
        for name, value in (("major", self.api_major), ("minor", self.api_minor), ("build", self.build)):
            if not 0 <= value <= 0xFF:
                raise DecodeError(f"firmware {name} number {value} is not one byte", code="version.range")

    def encode(self) -> bytes:
        """3 bytes: major, minor, build."""
        return bytes((self.api_major, self.api_minor, self.build))

    def satisfies(self, policy: Policy) -> bool:
        """Whether the policy's minimum API version is met."""
        return (self.api_major, self.api_minor) >= policy.min_api

    def __str__(self) -> str:
        return f"{self.api_major}.{self.api_minor} build {self.build}"
