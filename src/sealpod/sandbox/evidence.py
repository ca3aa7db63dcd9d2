# SPDX-License-Identifier: Apache-2.0
"""What host and key broker tell each other about a launch, apart from the library that carries it."""

from __future__ import annotations

from dataclasses import dataclass

from sealpod.sev.measurement import FirmwareVersion, Measurement
from sealpod.sev.policy import Policy


@dataclass(frozen=True, slots=True)
class Bundle:
    """What starts a launch for a guest owner: certificate (2084 bytes), session (128 bytes), launch id."""

    godh: bytes
    session: bytes
    launch_id: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the host says of a paused guest."""

    measurement: Measurement
    version: FirmwareVersion
    policy: Policy
    digest: bytes
