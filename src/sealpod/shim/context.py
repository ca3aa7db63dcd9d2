# SPDX-License-Identifier: Apache-2.0
"""What a serving shim knows of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ShimContext:
    """One pod's shim. ``id`` is the pod's id, ``bundle`` that of its first container."""

    namespace: str
    id: str
    bundle: str
    address: str
    """containerd's gRPC socket."""
    ttrpc_address: str
    """containerd's ttrpc socket, where events go."""
    runtime: str
    """``kata``, ``kata-qemu`` or ``kata-qemu-sev``."""
    socket: str
    """Where this shim listens."""
    debug: bool = False
