# SPDX-License-Identifier: Apache-2.0
"""The network namespace CNI made for a pod, and the taps that bring it into the guest.

Every configured interface gets a tap of its own, and two filters hand every packet on: what arrives on the
interface leaves by the tap, and back. The interface keeps addresses and hardware address, so that nothing
outside notices; the guest's card has the same hardware address, and the guest is told the rest (Kata's
``tcfilter`` model).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sealpod.errors import NotFoundError, OperationError
from sealpod.sandbox.finish import to_its_end
from sealpod.sandbox.iproute import ask, run

OURS: Final = "/proc/self/ns/net"
MAX_INTERFACES: Final = 16
KERNEL: Final = "kernel"
"""Routes of this protocol come with the addresses."""
ROUTE_SCOPES: Final = {"global": 0, "universe": 0, "site": 200, "link": 253, "host": 254, "nowhere": 255}


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface of the pod and the tap behind it. ``addresses`` are (address, prefix length)."""

    name: str
    mac: str
    mtu: int
    addresses: tuple[tuple[str, int], ...]
    tap: str


@dataclass(frozen=True, slots=True)
class Route:
    """``destination`` is empty for the default route."""

    interface: str
    destination: str
    gateway: str
    source: str
    scope: int
    ipv6: bool


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A permanent entry of the neighbour table."""

    interface: str
    address: str
    mac: str


@dataclass(frozen=True, slots=True)
class PodNetwork:
    """What the guest is told of its network, and where the taps are."""

    path: str
    interfaces: tuple[Interface, ...]
    routes: tuple[Route, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()


def is_ours(path: str) -> bool:
    """The namespace at ``path`` is this process's, whose interfaces no pod may take."""
    try:
        return os.path.samestat(os.stat(path), os.stat(OURS))
    except OSError as error:
        raise _missing(path) from error


async def read_network(path: str) -> PodNetwork:
    """What CNI left in the namespace at ``path``.

    :raise NotFoundError: there is no such namespace, or no iproute2 (``network.namespace``).
    :raise OperationError: iproute2 failed (``network.failed``).
    """
    if not os.path.exists(path):
        raise _missing(path)
    links, *routes, neighbours = await asyncio.gather(
        ask(path, "address", "show"),
        ask(path, "-4", "route", "show", "table", "main"),
        ask(path, "-6", "route", "show", "table", "main"),
        ask(path, "neighbour", "show", "nud", "permanent"),
    )
    interfaces = _interfaces(links)
    names = {interface.name for interface in interfaces}
    return PodNetwork(
        path,
        interfaces,
        tuple(
            route
            for number, table in enumerate(routes)
            for entry in table
            if entry.get("dev") in names and _is_told(entry)
            for route in _routes(entry, ipv6=bool(number))
        ),
        tuple(
            Neighbour(entry["dev"], entry["dst"], entry["lladdr"])
            for entry in neighbours
            if entry.get("dev") in names and entry.get("lladdr")
        ),
    )


def _interfaces(links: Sequence[dict[str, Any]]) -> tuple[Interface, ...]:
    found = [
        link
        for link in links
        if link.get("link_type") == "ether"
        and link.get("address")
        and "UP" in link.get("flags", ())
        # A tap here is one of a guest that was there before.
        and not link["ifname"].endswith("_kata")
    ]
    return tuple(
        Interface(
            name=link["ifname"],
            mac=link["address"],
            mtu=int(link["mtu"]),
            addresses=tuple(
                (entry["local"], int(entry["prefixlen"]))
                for entry in link.get("addr_info", ())
                # The guest makes the link-local one itself, of the same hardware address.
                if not (entry.get("family") == "inet6" and entry.get("scope") == "link")
            ),
            tap=f"tap{number}_kata",
        )
        for number, link in enumerate(found[:MAX_INTERFACES])
    )


def _is_told(route: dict[str, Any]) -> bool:
    return route.get("protocol") != KERNEL and route.get("type", "unicast") == "unicast"


def _routes(entry: dict[str, Any], *, ipv6: bool) -> Iterator[Route]:
    """The route, and before it one to a gateway that no network of the interface holds."""
    route = _route(entry, ipv6=ipv6)
    if route.gateway and "onlink" in entry.get("flags", ()):
        yield replace(route, destination=route.gateway, gateway="", scope=ROUTE_SCOPES["link"])
    yield route


def _route(entry: dict[str, Any], *, ipv6: bool) -> Route:
    destination = str(entry.get("dst", ""))
    return Route(
        interface=entry["dev"],
        destination="" if destination == "default" else destination,
        gateway=str(entry.get("gateway", "")),
        source=str(entry.get("prefsrc", "")),
        scope=ROUTE_SCOPES.get(str(entry.get("scope", "global")), 0),
        ipv6=ipv6,
    )


async def attach(network: PodNetwork) -> None:
    """Make the taps and the filters. On a failure :func:`detach` removes what was made."""
    for interface in network.interfaces:
        name, tap = interface.name, interface.tap
        await run(network.path, "ip", "tuntap", "add", "dev", tap, "mode", "tap")
        await run(network.path, "ip", "link", "set", "dev", tap, "mtu", str(interface.mtu), "up")
        await run(
            network.path,
            *("tc", "-batch", "-"),
            text="".join(
                f"qdisc add dev {source} handle ffff: ingress\n"
                f"filter add dev {source} parent ffff: protocol all u32 match u8 0 0 "
                f"action mirred egress redirect dev {target}\n"
                for source, target in ((name, tap), (tap, name))
            ),
        )


async def detach(path: str, interfaces: Sequence[tuple[str, str]]) -> None:
    """Remove taps and filters; ``interfaces`` are (name, tap). What is gone already is no error."""
    await to_its_end(_detach(path, interfaces))


async def _detach(path: str, interfaces: Sequence[tuple[str, str]]) -> None:
    if not os.path.exists(path):
        return
    for name, tap in interfaces:
        for command in (
            ("ip", "link", "delete", "dev", tap),
            ("tc", "qdisc", "delete", "dev", name, "ingress"),
        ):
            with contextlib.suppress(OperationError, NotFoundError):
                await run(path, *command)


def _missing(path: str) -> NotFoundError:
    return NotFoundError(
        f"there is no network namespace at {path}",
        code="network.namespace",
        remedy="the pod's CNI plugin makes it; see containerd's log",
    )
