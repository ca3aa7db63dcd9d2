# SPDX-License-Identifier: Apache-2.0
"""QEMU's user network as guest and host see it.

The guest has 10.0.2.15, the gateway 10.0.2.2 leads to the host, and the host's loopback is reached at that
gateway. A loopback address a user names for a registry or broker means the host's, so the guest is told the
gateway instead.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from sealpod.errors import UsageError

GATEWAY: Final = "10.0.2.2"
GUEST: Final = "10.0.2.15"
PREFIX: Final = "24"
NAMESERVER: Final = "10.0.2.3"
# QEMU's default address of the first network card.
HARDWARE_ADDRESS: Final = "52:54:00:12:34:56"


def is_loopback(host: str) -> bool:
    """True for ``localhost`` and loopback addresses, IPv6 in brackets or not."""
    name = host.strip("[]")
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def split_host_port(text: str, *, what: str) -> tuple[str, int]:
    """``HOST:PORT`` or ``[V6]:PORT`` to its parts. UsageError names ``what`` when it is neither."""
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"{what} {text!r} is not HOST:PORT", code="usage.address")
    return host, int(port)


def from_guest(host_port: str) -> str:
    """The ``HOST[:PORT]`` under which the guest reaches what the host calls ``host_port``."""
    host, separator, port = host_port.rpartition(":")
    if not separator or not port.isdecimal():
        host, port = host_port, ""
    if not is_loopback(host):
        return host_port
    return f"{GATEWAY}:{port}" if port else GATEWAY
