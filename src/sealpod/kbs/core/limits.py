# SPDX-License-Identifier: Apache-2.0
"""The broker's limits, each with unit, reason and source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Defaults suit one broker in front of some hundred hosts."""

    launch_ttl: float = 600.0
    """Seconds from GetBundle to GetSecret. A launch takes seconds; ten minutes allow for a debugger."""
    max_launches: int = 10_000
    """Launches in progress. Anyone with a trusted chain may open them; a row is some 200 bytes."""
    secret_area: int = 0xC00
    """Bytes of the launch secret table. OVMF's AmdSev build reserves one page and keeps 0x400 bytes of it
    for the hashes table (edk2 OvmfPkg/AmdSev/AmdSevX64.fdf)."""
    online_reply: int = 1 << 20
    """Bytes of all payloads of one online reply; gRPC clients take 4 MiB by default."""
