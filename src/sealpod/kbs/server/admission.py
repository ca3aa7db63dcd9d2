# SPDX-License-Identifier: Apache-2.0
"""Which calls are let in: a bucket of tokens per peer, and places for calls in all and per peer.

Everything here is asked in the event loop, before a byte of the call's message is read. The table of peers
is bounded: with more peers than it holds, those are forgotten first that have been quiet for longest, which
only ever gives a peer its full burst back.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import unquote

from sealpod.errors import UnavailableError
from sealpod.kbs.server.config import ConnectionLimits, RateLimit

MAX_PEERS: Final = 10_000
"""Addresses remembered; some 200 bytes each."""
IPV6_PREFIX: Final = 64
"""Bits of an IPv6 address that name a peer: one host may have all addresses of its network."""

_PEER = re.compile(r"ipv[46]:(?P<host>.+):[0-9]+")


def peer_host(peer: str) -> str:
    """The address in gRPC's name of a peer (``ipv4:192.0.2.1:4000``, ``ipv6:%5B::1%5D:4000``)."""
    match = _PEER.fullmatch(unquote(peer))
    return peer if match is None else match["host"].strip("[]").partition("%")[0]


def peer_key(host: str) -> str | None:
    """What a peer is counted under; None for loopback."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return None if address.is_loopback else str(ipaddress.ip_network((address, IPV6_PREFIX), False))
        address = address.ipv4_mapped
    return None if address.is_loopback else str(address)


class Buckets:
    """Tokens per peer: ``burst`` at most, ``rate`` new ones per second."""

    def __init__(self, limit: RateLimit, clock: Callable[[], float], *, peers: int = MAX_PEERS) -> None:
        self._limit = limit
        self._clock = clock
        self._peers = peers
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def take(self, peer: str) -> bool:
        """Whether ``peer`` may make one more call now."""
        if self._limit.rate <= 0:
            return True
        now = self._clock()
        level, since = self._levels.pop(peer, (float(self._limit.burst), now))
        level = min(float(self._limit.burst), level + max(0.0, now - since) * self._limit.rate)
        allowed = level >= 1.0
        self._levels[peer] = (level - 1.0 if allowed else level, now)
        if len(self._levels) > self._peers:
            self._levels.popitem(last=False)
        return allowed


class Admission:
    """Lets calls in."""

    def __init__(self, rate: RateLimit, connections: ConnectionLimits, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._limits = connections
        self._buckets = Buckets(rate, clock)
        self._held: Counter[str] = Counter()
        self.calls = 0
        """Calls that are let in now."""

    @contextmanager
    def admitted(self, host: str) -> Iterator[None]:
        """Hold a place for the block.

        :raise UnavailableError: ``kbs.busy``, ``kbs.rate-limit``.
        """
        key = peer_key(host)
        limited = "loopback" if key is None and self._rate.loopback else key
        if self.calls >= self._limits.calls or (key and self._held[key] >= self._limits.calls_per_peer):
            raise UnavailableError("too many calls at once", code="kbs.busy", remedy="try again in a moment")
        if limited is not None and not self._buckets.take(limited):
            raise UnavailableError(
                f"more than {self._rate.rate:g} calls a second",
                code="kbs.rate-limit",
                remedy="try again in a moment, or give the key broker another --rate-limit",
            )
        self.calls += 1
        if key:
            self._held[key] += 1
        try:
            yield
        finally:
            self.calls -= 1
            if key:
                self._release(key)

    def _release(self, key: str) -> None:
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]
