# SPDX-License-Identifier: Apache-2.0
"""rtnetlink messages: set up a link, give it addresses, routes and neighbours, list them. Bytes only.

::

    nlmsghdr   u32 length, u16 type, u16 flags, u32 sequence, u32 port
    rtattr     u16 length (with these 4 bytes), u16 type, value, padded to 4 bytes

Numbers in the host's byte order. linux/netlink.h, linux/rtnetlink.h, rtnetlink(7).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from sealpod.errors import DecodeError

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, changed flags
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, dst len, src len, tos, table, protocol, scope, type, flags
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_ERROR = struct.Struct("=i")

ERROR: Final = 2  # NLMSG_ERROR, also the acknowledgement (number 0)
DONE: Final = 3  # NLMSG_DONE, the end of a list
NEW_LINK: Final = 16
GET_LINK: Final = 18
NEW_ADDRESS: Final = 20
GET_ADDRESS: Final = 22
NEW_ROUTE: Final = 24
GET_ROUTE: Final = 26
NEW_NEIGHBOUR: Final = 28

_REQUEST_ACK = 0x1 | 0x4
_CREATE_REPLACE = 0x400 | 0x100
_DUMP = 0x1 | 0x300

IFF_UP: Final = 0x1
_IFLA_IFNAME, _IFLA_MTU = 3, 4
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU = 1, _IFLA_IFNAME, _IFLA_MTU
IFA_ADDRESS, IFA_LOCAL = 1, 2
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC = 1, 4, 5, 7
TABLE_MAIN, _PROTOCOL_BOOT, UNICAST = 254, 3, 1
_NDA_DST, _NDA_LLADDR = 1, 2
_NO_DUPLICATE_CHECK = (
    0x02  # IFA_F_NODAD: the host gives addresses, and checking keeps one unusable for a second
)
PERMANENT: Final = 0x80  # NUD_PERMANENT
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
    body = _ADDRESS.pack(family, prefix, _NO_DUPLICATE_CHECK, SCOPE_UNIVERSE, index)
    attributes = _attribute(IFA_LOCAL, address) + _attribute(IFA_ADDRESS, address)
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
    body = _ROUTE.pack(family, prefix, 0, 0, TABLE_MAIN, _PROTOCOL_BOOT, scope, UNICAST, 0)
    attributes = _attribute(RTA_OIF, struct.pack("=I", index))
    for kind, value in ((RTA_DST, destination), (RTA_GATEWAY, gateway), (RTA_PREFSRC, source)):
        if value:
            attributes += _attribute(kind, value)
    return _message(sequence, NEW_ROUTE, _CREATE_REPLACE, body + attributes)


def add_neighbour(
    sequence: int, index: int, family: int, address: bytes, hardware: bytes, *, state: int = 0, flags: int = 0
) -> bytes:
    """The hardware address of a neighbour (ARP, NDP); state 0 means for good."""
    body = _NEIGHBOUR.pack(family, index, state or PERMANENT, flags, 0)
    attributes = _attribute(_NDA_DST, address) + _attribute(_NDA_LLADDR, hardware)
    return _message(sequence, NEW_NEIGHBOUR, _CREATE_REPLACE, body + attributes)


def list_all(sequence: int, kind: int, family: int = 0) -> bytes:
    """Ask for all links, addresses or routes (GET_*)."""
    body = {GET_LINK: _LINK, GET_ADDRESS: _ADDRESS, GET_ROUTE: _ROUTE}[kind].size
    return _HEADER.pack(_HEADER.size + body, kind, _DUMP, sequence, 0) + bytes([family]) + bytes(body - 1)


def messages(data: bytes, sequence: int) -> Iterator[tuple[int, bytes]]:
    """Kind and body of each message in an answer to ``sequence``. Raises :class:`DecodeError`."""
    position = 0
    while position < len(data):
        if len(data) - position < _HEADER.size:
            raise DecodeError("a netlink answer ends early", code="agent.netlink")
        size, kind, _, answered, _ = _HEADER.unpack_from(data, position)
        if not _HEADER.size <= size <= len(data) - position:
            raise DecodeError("a netlink answer ends early", code="agent.netlink")
        if answered == sequence:
            yield kind, data[position + _HEADER.size : position + size]
        position += -(-size // 4) * 4


def link(body: bytes) -> tuple[int, int, dict[int, bytes]]:
    """Index, flags and attributes of a NEW_LINK."""
    _, _, index, flags, _ = _unpack(_LINK, body)
    return index, flags, _attributes(body, _LINK.size)


def address(body: bytes) -> tuple[int, int, int, dict[int, bytes]]:
    """Family, prefix length, link's index and attributes of a NEW_ADDRESS."""
    family, prefix, _, _, index = _unpack(_ADDRESS, body)
    return family, prefix, index, _attributes(body, _ADDRESS.size)


def route(body: bytes) -> tuple[int, int, int, int, int, dict[int, bytes]]:
    """Family, prefix length, table, scope, type and attributes of a NEW_ROUTE."""
    family, prefix, _, _, table, _, scope, kind, _ = _unpack(_ROUTE, body)
    return family, prefix, table, scope, kind, _attributes(body, _ROUTE.size)


def _unpack(layout: struct.Struct, body: bytes) -> tuple[int, ...]:
    if len(body) < layout.size:
        raise DecodeError("a netlink message is too short", code="agent.netlink")
    return layout.unpack_from(body)


def _attributes(body: bytes, position: int) -> dict[int, bytes]:
    found = {}
    while len(body) - position >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(body, position)
        if not _ATTRIBUTE.size <= size <= len(body) - position:
            raise DecodeError("a netlink attribute is longer than its message", code="agent.netlink")
        found[kind & 0x3FFF] = body[position + _ATTRIBUTE.size : position + size]  # without the flag bits
        position += -(-size // 4) * 4
    return found


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
