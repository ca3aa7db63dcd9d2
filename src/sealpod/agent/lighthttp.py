# SPDX-License-Identifier: Apache-2.0
"""Load ``http.client`` without ``ssl``, which takes more than half of its start in an emulated guest.

The module allows for an interpreter without TLS. Registries spoken to with TLS load it then
(:mod:`sealpod.registry.connection` does not use ``HTTPSConnection``). In the guest nobody else uses
``http.client``; anywhere else this would take ``HTTPSConnection`` from others, so only the agent calls it.
"""

from __future__ import annotations

import sys


def load() -> None:
    """Import ``http.client``, hiding ``ssl`` meanwhile. Does nothing when either was imported before."""
    if "ssl" in sys.modules or "http.client" in sys.modules:
        return
    sys.modules["ssl"] = None  # type: ignore[assignment] # makes its import fail
    try:
        import http.client  # noqa: F401
    finally:
        del sys.modules["ssl"]
