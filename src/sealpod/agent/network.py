# SPDX-License-Identifier: Apache-2.0
"""The guest's network as the host describes it: links, addresses, routes, resolv.conf.

The host provides the network and could lie about it at will; nothing here is trusted for more than reaching
peers that prove themselves by digests and keys. Links are found by hardware address, since names depend on
probe order.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final

from sealpod.agent import netlink
from sealpod.errors import NotFoundError, OperationError, UsageError
from sealpod.wire.message import Message

SIOCGIFHWADDR: Final = 0x8927
IFNAMSIZ: Final = 16
MAX_MTU: Final = 65536
LOOPBACK: Final = "lo"
IPV6: Final = 1
"""types.IPFamily; 0 is IPv4."""
_REPLY_SIZE: Final = 64 * 1024
"""Bytes per read; a list comes in pieces of at most 32 KiB."""
_SWAP_NAME: Final = "swap0"
_ALLOWED_FLAGS: Final = 0x80 | 0x1000  # IFF_NOARP, IFF_MULTICAST: the raw flags Kata passes on
_IFREQ = struct.Struct("16sH6s8x")


class Netlink:
    """A request socket to the kernel's routing side."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._sequence = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def next(self) -> int:
        """Sequence number for the next request."""
        self._sequence += 1
        return self._sequence

    def ask(self, request: bytes, what: str) -> None:
        """Send one request. Raises :class:`OperationError` naming ``what`` if the kernel refuses."""
        self._socket.send(request)
        number = netlink.parse_reply(self._socket.recv(_REPLY_SIZE), self._sequence)
        if number:
            raise OperationError(f"cannot {what}: {os.strerror(number)}", code="agent.network")

    def everything(self, kind: int, what: str) -> list[tuple[int, bytes]]:
        """All answers to a list request: kind and body."""
        self._socket.send(netlink.list_all(self.next(), kind))
        found: list[tuple[int, bytes]] = []
        while True:
            for kind_of, body in netlink.messages(self._socket.recv(_REPLY_SIZE), self._sequence):
                if kind_of == netlink.DONE:
                    return found
                if kind_of == netlink.ERROR:
                    raise OperationError(f"cannot list {what}", code="agent.network")
                found.append((kind_of, body))


def bring_up_loopback() -> None:
    """lo is down when a kernel starts."""
    with Netlink() as kernel:
        index = socket.if_nametoindex(LOOPBACK)
        kernel.ask(netlink.set_link(kernel.next(), index, flags=netlink.IFF_UP), "bring up lo")


def update_interface(interface: Message) -> None:
    """Configure the link with ``hwAddr`` (or named ``device``) and bring it up."""
    index, current = _find(interface.hwAddr, interface.device)
    if interface.mtu > MAX_MTU:
        raise UsageError(f"an MTU of {interface.mtu} is too large", code="agent.network")
    with Netlink() as kernel:
        if interface.name and interface.name != current:
            _rename(kernel, index, current, interface.name)
        for address in interface.IPAddresses:
            family, raw = _address(address.address)
            request = netlink.add_address(kernel.next(), index, family, raw, _prefix(address.mask, raw))
            kernel.ask(request, f"add the address {address.address}")
        flags = netlink.IFF_UP | (interface.raw_flags & _ALLOWED_FLAGS)
        kernel.ask(netlink.set_link(kernel.next(), index, mtu=interface.mtu, flags=flags), "bring up a link")


def _rename(kernel: Netlink, index: int, current: str, name: str) -> None:
    """Give the link its name; another that has it gets the link's old one."""
    _check_name(name)
    other = next((number for number, taken in socket.if_nameindex() if taken == name), 0)
    steps = [(index, name)]
    if other:
        steps = [(other, _SWAP_NAME), (index, name), (other, current)]
    for number, wanted in steps:
        # A link can be renamed only while it is down.
        request = netlink.set_link(kernel.next(), number, name=wanted, flags=0)
        kernel.ask(request, f"rename a link to {wanted}")


def add_neighbours(neighbours: Sequence[Message]) -> None:
    """Tell the kernel the hardware addresses of neighbours that are known for good."""
    with Netlink() as kernel:
        for one in neighbours:
            family, raw = _address(one.toIPAddress.address)
            if not 0 <= one.state <= 0xFFFF or not 0 <= one.flags <= 0xFF:
                raise UsageError("this is no state of a neighbour", code="agent.network")
            request = netlink.add_neighbour(
                kernel.next(),
                _index(one.device),
                family,
                raw,
                _hardware(one.lladdr),
                state=one.state,
                flags=one.flags,
            )
            kernel.ask(request, f"add the neighbour {one.toIPAddress.address}")


def _hardware(text: str) -> bytes:
    try:
        raw = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        raw = b""
    if len(raw) != 6:
        raise UsageError(f"{text[:64]!r} is no hardware address", code="agent.network")
    return raw


def update_routes(routes: Sequence[Message]) -> None:
    """Add routes; those to connected networks first, because gateways are reached through them."""
    with Netlink() as kernel:
        for route in sorted(routes, key=lambda route: bool(route.gateway)):
            kernel.ask(_route(kernel, route), f"add the route to {route.dest or 'everywhere'}")


def _route(kernel: Netlink, route: Message) -> bytes:
    index = _index(route.device)
    address, slash, mask = route.dest.partition("/")
    family, destination = _address(address) if address else (_family(route), b"")
    prefix = _prefix(mask, destination) if slash else 8 * len(destination)
    return netlink.add_route(
        kernel.next(),
        index,
        family,
        destination=destination,
        prefix=prefix,
        gateway=_address(route.gateway)[1] if route.gateway else b"",
        source=_address(route.source)[1] if route.source else b"",
        scope=_scope(route.scope),
    )


def _family(route: Message) -> int:
    if route.gateway:
        return _address(route.gateway)[0]
    return socket.AF_INET6 if route.family == IPV6 else socket.AF_INET


def _scope(scope: int) -> int:
    if scope > 255:
        raise UsageError(f"{scope} is no route scope", code="agent.network")
    return scope


def _find(hardware: str, device: str) -> tuple[int, str]:
    """Index and name of a link."""
    if not hardware:
        return _index(device), device
    wanted = hardware.lower()
    for index, name in socket.if_nameindex():
        if hardware_address(name) == wanted:
            return index, name
    raise NotFoundError(f"no network link has the address {hardware}", code="agent.network")


def _index(device: str) -> int:
    try:
        return socket.if_nametoindex(device)
    except OSError as exc:
        raise NotFoundError(f"no network link is named {device!r}", code="agent.network") from exc


def hardware_address(name: str) -> str:
    """``xx:xx:xx:xx:xx:xx`` of a link."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as query:
        answer = fcntl.ioctl(query, SIOCGIFHWADDR, _IFREQ.pack(name.encode(), 0, b""))
    return _IFREQ.unpack(answer)[2].hex(":")  # type: ignore[no-any-return]


def _address(text: str) -> tuple[int, bytes]:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        return family, socket.inet_pton(family, text)
    except OSError as exc:
        raise UsageError(f"{text!r} is no IP address", code="agent.network") from exc


def _prefix(text: str, address: bytes) -> int:
    if text.isascii() and text.isdigit() and int(text[:4]) <= 8 * len(address):
        return int(text[:4])
    raise UsageError(f"{text!r} is no prefix length", code="agent.network")


def _check_name(name: str) -> None:
    if not name.isascii() or not name.isprintable() or "/" in name or not 0 < len(name) < IFNAMSIZ:
        raise UsageError(f"{name!r} is no link name", code="agent.network")


def resolv_conf(lines: list[str]) -> str:
    """Contents of resolv.conf from the lines the host gives; comments and odd words are left out."""
    kept = [line.strip() for line in lines if line.isprintable()]
    words = ("nameserver ", "search ", "options ", "domain ", "sortlist ")
    return "".join(f"{line}\n" for line in kept if line.startswith(words))
