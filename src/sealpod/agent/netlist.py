# SPDX-License-Identifier: Apache-2.0
"""The guest's links and routes as the agent's messages."""

from __future__ import annotations

import socket
import struct
from typing import Final

from sealpod.agent import netlink
from sealpod.agent.network import IPV6, Netlink
from sealpod.wire.agentapi import MESSAGES
from sealpod.wire.message import Message

_U32 = struct.Struct("=I")
FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)


def interfaces() -> list[Message]:
    """Every link with its addresses."""
    with Netlink() as kernel:
        links = kernel.everything(netlink.GET_LINK, "links")
        addresses = kernel.everything(netlink.GET_ADDRESS, "addresses")
    of_link: dict[int, list[Message]] = {}
    for _, body in addresses:
        family, prefix, index, attributes = netlink.address(body)
        raw = attributes.get(netlink.IFA_LOCAL) or attributes.get(netlink.IFA_ADDRESS, b"")
        if family in FAMILIES and raw:
            text = socket.inet_ntop(family, raw)
            values = {"family": _family(family), "address": text, "mask": str(prefix)}
            of_link.setdefault(index, []).append(MESSAGES.new("IPAddress", **values))
    return [_interface(body, of_link) for _, body in links]


def _interface(body: bytes, addresses: dict[int, list[Message]]) -> Message:
    index, flags, attributes = netlink.link(body)
    name = _text(attributes.get(netlink.IFLA_IFNAME, b""))
    return MESSAGES.new(
        "Interface",
        device=name,
        name=name,
        IPAddresses=addresses.get(index, []),
        mtu=_number(attributes.get(netlink.IFLA_MTU, b"")),
        hwAddr=attributes.get(netlink.IFLA_ADDRESS, b"").hex(":"),
        raw_flags=flags,
    )


def routes() -> list[Message]:
    """The main table's routes to somewhere."""
    with Netlink() as kernel:
        found = kernel.everything(netlink.GET_ROUTE, "routes")
    names = dict(socket.if_nameindex())
    return [route for _, body in found if (route := _route(body, names)) is not None]


def _route(body: bytes, names: dict[int, str]) -> Message | None:
    family, prefix, table, scope, kind, attributes = netlink.route(body)
    device = names.get(_number(attributes.get(netlink.RTA_OIF, b"")), "")
    if family not in FAMILIES or table != netlink.TABLE_MAIN or kind != netlink.UNICAST or not device:
        return None
    destination = attributes.get(netlink.RTA_DST, b"")
    return MESSAGES.new(
        "Route",
        dest=f"{socket.inet_ntop(family, destination)}/{prefix}" if destination else "",
        gateway=_address(family, attributes.get(netlink.RTA_GATEWAY, b"")),
        device=device,
        source=_address(family, attributes.get(netlink.RTA_PREFSRC, b"")),
        scope=scope,
        family=_family(family),
    )


def _address(family: int, raw: bytes) -> str:
    return socket.inet_ntop(family, raw) if raw else ""


def _family(family: int) -> int:
    return IPV6 if family == socket.AF_INET6 else 0


def _number(raw: bytes) -> int:
    return int(_U32.unpack_from(raw)[0]) if len(raw) >= _U32.size else 0


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("utf-8", "replace")
