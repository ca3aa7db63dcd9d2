# SPDX-License-Identifier: Apache-2.0
"""The key broker as a process: gRPC in front of the core and the store."""

from __future__ import annotations

from sealpod.kbs.server.config import ServerConfig
from sealpod.kbs.server.serve import RunningBroker, serve

__all__ = ["RunningBroker", "ServerConfig", "serve"]
