# SPDX-License-Identifier: Apache-2.0
"""Telling the service manager how far a daemon is: sd_notify(3), for units of ``Type=notify``."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final

READY: Final = "READY=1"
RELOADING: Final = "RELOADING=1"
STOPPING: Final = "STOPPING=1"


def notify(state: str) -> None:
    """Send ``state`` to the socket ``$NOTIFY_SOCKET`` names; without one, or when nobody reads it, nothing
    happens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
        sender.sendall(state.encode())
