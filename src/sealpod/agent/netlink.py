# SPDX-License-Identifier: Apache-2.0
"""rtnetlink messages that configure a link: set it up, give it an address, add a route. Bytes only.

::

    nlmsghdr   u32 length, u16 type, u16 flags, u32 sequence, u32 port
    rtattr     u16 length (with these 4 bytes), u16 type, value, padded to 4 bytes

Numbers in the host's byte order. linux/netlink.h, linux/rtnetlink.h, rtnetlink(7).
"""

from __future__ import annotations

import struct
from typing import Final

from sealpod.errors import DecodeError

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, changed flags
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, dst len, src len, tos, table, protocol, scope, type, flags
_ERROR = struct.Struct("=i")

ERROR: Final = 2  # NLMSG_ERROR, also the acknowledgement (number 0)
NEW_LINK: Final = 16
NEW_ADDRESS: Final = 20
NEW_ROUTE: Final = 24

_REQUEST_ACK = 0x1 | 0x4
_CREATE_REPLACE = 0x400 | 0x100

IFF_UP: Final = 0x1
_IFLA_IFNAME, _IFLA_MTU = 3, 4
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC = 1, 4, 5, 7
_TABLE_MAIN, _PROTOCOL_BOOT, _UNICAST = 254, 3, 1
SCOPE_UNIVERSE: Final = 0
SCOPE_LINK: Final = 253


def set_link(sequence: int, index: int, *, name: str = "", mtu: int = 0, flags: int | None = None) -> bytes:
    """Change a link; ``flags`` are IFF_* to set, with IFF_UP cleared if it is not among them."""
    attributes = b""
    if name:
        attributes += _attribute(_IFLA_IFNAME, name.encode() + b"\0")
    if mtu:
        attributes += _attribute(_IFLA_MTU, struct.pack("=I", mtu))
    change = 0 if flags is None else flags | IFF_UP
    body = _LINK.pack(0, 0, index, flags or 0, change)
    return _message(sequence, NEW_LINK, 0, body + attributes)


def add_address(sequence: int, index: int, family: int, address: bytes, prefix: int) -> bytes:
    """Give the link an address of ``family`` (AF_INET or AF_INET6); the same again is no error."""
    body = _ADDRESS.pack(family, prefix, 0, SCOPE_UNIVERSE, index)
    attributes = _attribute(_IFA_LOCAL, address) + _attribute(_IFA_ADDRESS, address)
    return _message(sequence, NEW_ADDRESS, _CREATE_REPLACE, body + attributes)


def add_route(
    sequence: int,
    index: int,
    family: int,
    *,
    destination: bytes = b"",
    prefix: int = 0,
    gateway: bytes = b"",
    source: bytes = b"",
    scope: int = SCOPE_UNIVERSE,
) -> bytes:
    """A route over the link; without destination the default route. The same again is no error."""
    body = _ROUTE.pack(family, prefix, 0, 0, _TABLE_MAIN, _PROTOCOL_BOOT, scope, _UNICAST, 0)
    attributes = _attribute(_RTA_OIF, struct.pack("=I", index))
    for kind, value in ((_RTA_DST, destination), (_RTA_GATEWAY, gateway), (_RTA_PREFSRC, source)):
        if value:
            attributes += _attribute(kind, value)
    return _message(sequence, NEW_ROUTE, _CREATE_REPLACE, body + attributes)


def parse_reply(data: bytes, sequence: int) -> int:
    """The error number the kernel answers ``sequence`` with, 0 for success."""
    if len(data) < _HEADER.size + _ERROR.size:
        raise DecodeError("a netlink answer is too short", code="agent.netlink")
    _, kind, _, answered, _ = _HEADER.unpack_from(data)
    if kind != ERROR or answered != sequence:
        raise DecodeError("a netlink answer is not an acknowledgement", code="agent.netlink")
    number: int = _ERROR.unpack_from(data, _HEADER.size)[0]
    return -number


def _attribute(kind: int, value: bytes) -> bytes:
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(-size % 4)


def _message(sequence: int, kind: int, flags: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST_ACK | flags, sequence, 0) + body
