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
    """Launches in progress. Anyone with a trusted chain may open them; a row is some 500 bytes."""
    connection_ttl: float = 30 * 86400.0
    """Seconds a guest may ask with its connection. Keys are asked for when images are pulled, which for most
    guests is the first minute; a month lets long-lived ones pull again."""
    max_connections: int = 100_000
    """Connections kept. Each belongs to a launch that was measured; a row is some 500 bytes."""
    connection_messages: int = 100_000
    """Replies under one connection's key. AES-GCM with random nonces is good for 2**32 (NIST SP 800-38D,
    8.3); this is far below, and far above what a guest asks for."""
    secret_area: int = 0xC00
    """Bytes of the launch secret table. OVMF's AmdSev build reserves one page and keeps 0x400 bytes of it
    for the hashes table (edk2 OvmfPkg/AmdSev/AmdSevX64.fdf)."""
    online_reply: int = 1 << 20
    """Bytes of all payloads of one online reply; gRPC clients take 4 MiB by default."""
    report_ttl: float = 300.0
    """Seconds a report is valid that was asked for with a nonce or an audience: as long as its reader may
    take to fetch it. One asked for as simple-kbs' clients do says nothing of time."""
    chain_cache: int = 1024
    """Verified certificate chains remembered, about 10 KiB each; 0 remembers none."""
