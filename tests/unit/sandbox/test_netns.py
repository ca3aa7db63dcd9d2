# SPDX-License-Identifier: Apache-2.0
"""Taps and filters in a real network namespace, with a real veth pair: state, packets, clean-up."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator

import pytest

from sealpod.errors import NotFoundError, OperationError
from sealpod.sandbox import netns

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("ip", "tc", "nsenter"))),
    reason="needs root, iproute2 and util-linux",
)

TUNSETIFF = 0x400454CA
IFF_TAP_NO_PI = 0x1002
ETHERTYPE = 0x88B5  # IEEE's, for experiments


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Pod:
    """A namespace as CNI leaves it, with the host's end of the pair."""

    def __init__(self, name: str) -> None:
        self.name, self.host, self.path = name, f"v{name}", f"/run/netns/{name}"
        run("ip", "netns", "add", name)
        run("ip", "link", "add", self.host, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", self.host, "up")
        self.ip("link", "set", "dev", "eth0", "mtu", "1400", "up")
        self.ip("address", "add", "10.231.7.2/24", "dev", "eth0")
        self.ip("-6", "address", "add", "fd00:7::2/64", "dev", "eth0", "nodad")
        self.ip("route", "add", "default", "via", "10.231.7.1")
        self.ip("route", "add", "10.232.0.0/16", "dev", "eth0", "scope", "link", "src", "10.231.7.2")
        self.ip("-6", "route", "add", "default", "via", "fd00:7::1")
        self.ip(
            "neighbour", "add", "10.231.7.9", "lladdr", "02:00:00:00:00:09", "dev", "eth0", "nud", "permanent"
        )

    def ip(self, *words: str) -> str:
        return run("ip", "-n", self.name, *words)

    def links(self) -> dict[str, dict[str, object]]:
        return {link["ifname"]: link for link in json.loads(self.ip("-json", "link"))}

    def ingress(self) -> set[str]:
        disciplines = json.loads(run("tc", "-n", self.name, "-json", "qdisc", "show"))
        return {entry["dev"] for entry in disciplines if entry["kind"] == "ingress"}

    def delete(self) -> None:
        subprocess.run(["ip", "netns", "delete", self.name], check=False, capture_output=True)


@pytest.fixture
def pod() -> Iterator[Pod]:
    made = Pod(f"sp{secrets.token_hex(3)}")
    try:
        yield made
    finally:
        made.delete()


def read(pod: Pod) -> netns.PodNetwork:
    return asyncio.run(netns.read_network(pod.path))


def pairs(network: netns.PodNetwork) -> list[tuple[str, str]]:
    return [(interface.name, interface.tap) for interface in network.interfaces]


def test_what_cni_left_is_what_the_guest_is_told(pod: Pod) -> None:
    network = read(pod)
    (interface,) = network.interfaces
    assert (interface.name, interface.tap, interface.mtu) == ("eth0", "tap0_kata", 1400)
    assert interface.mac == pod.links()["eth0"]["address"]
    assert set(interface.addresses) == {("10.231.7.2", 24), ("fd00:7::2", 64)}
    # Connected networks come with the addresses and are not told.
    assert set(network.routes) == {
        netns.Route("eth0", "", "10.231.7.1", "", 0, ipv6=False),
        netns.Route("eth0", "10.232.0.0/16", "", "10.231.7.2", 253, ipv6=False),
        netns.Route("eth0", "", "fd00:7::1", "", 0, ipv6=True),
    }
    assert network.neighbours == (netns.Neighbour("eth0", "10.231.7.9", "02:00:00:00:00:09"),)


def test_a_gateway_outside_the_pods_networks_is_told_of(pod: Pod) -> None:
    pod.ip("route", "add", "10.233.0.0/16", "via", "192.0.2.1", "dev", "eth0", "onlink")
    routes = [route for route in read(pod).routes if "192.0.2.1" in (route.destination, route.gateway)]
    assert routes == [
        netns.Route("eth0", "192.0.2.1", "", "", 253, ipv6=False),
        netns.Route("eth0", "10.233.0.0/16", "192.0.2.1", "", 0, ipv6=False),
    ]


def test_links_that_are_down_or_loopback_are_left_alone(pod: Pod) -> None:
    pod.ip("link", "set", "lo", "up")
    pod.ip("link", "add", "off0", "type", "veth")
    assert [interface.name for interface in read(pod).interfaces] == ["eth0"]


def test_taps_and_filters_come_and_go(pod: Pod) -> None:
    network = read(pod)
    asyncio.run(netns.attach(network))
    tap = pod.links()["tap0_kata"]
    assert tap["mtu"] == 1400
    assert "UP" in tap["flags"]  # type: ignore[operator]
    assert pod.ingress() == {"eth0", "tap0_kata"}
    # A guest started anew in the namespace does not take the tap for an interface of the pod.
    assert read(pod) == network
    for _ in range(2):
        asyncio.run(netns.detach(pod.path, pairs(network)))
        assert "tap0_kata" not in pod.links()
        assert pod.ingress() == set()


def test_a_failure_half_way_is_told_and_can_be_undone(pod: Pod) -> None:
    network = read(pod)
    pod.ip("tuntap", "add", "dev", "tap0_kata", "mode", "tap")
    with pytest.raises(OperationError) as caught:
        asyncio.run(netns.attach(network))
    assert caught.value.code == "network.failed"
    assert "tap0_kata" in caught.value.message
    asyncio.run(netns.detach(pod.path, pairs(network)))
    assert "tap0_kata" not in pod.links()


def test_a_namespace_that_is_gone_is_clean(pod: Pod) -> None:
    network = read(pod)
    pod.delete()
    asyncio.run(netns.detach(pod.path, pairs(network)))
    with pytest.raises(NotFoundError) as caught:
        asyncio.run(netns.read_network(pod.path))
    assert caught.value.code == "network.namespace"


def test_our_own_namespace_is_known(pod: Pod) -> None:
    assert netns.is_ours("/proc/self/ns/net")
    assert not netns.is_ours(pod.path)
    with pytest.raises(NotFoundError):
        netns.is_ours("/run/netns/there-is-none")


def open_tap(pod: Pod) -> int:
    """The tap's other end, which QEMU would hold."""
    here, there = os.open("/proc/self/ns/net", os.O_RDONLY), os.open(pod.path, os.O_RDONLY)
    try:
        _setns(there)
        # The device belongs to the namespace it is opened in.
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"tap0_kata", IFF_TAP_NO_PI))
    finally:
        _setns(here)
        os.close(here)
        os.close(there)
    return tap


def _setns(descriptor: int) -> None:
    import ctypes

    if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def frame(source: bytes, text: bytes) -> bytes:
    return b"\xff" * 6 + source + struct.pack(">H", ETHERTYPE) + text.ljust(60, b"\0")


def test_packets_pass_both_ways(pod: Pod) -> None:
    asyncio.run(netns.attach(read(pod)))
    tap = open_tap(pod)
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE)) as host:
            host.bind((pod.host, ETHERTYPE))
            host.settimeout(10)
            inward = frame(b"\x02\0\0\0\0\x01", b"to the guest")
            host.send(inward)
            assert _next(tap) == inward
            outward = frame(b"\x02\0\0\0\0\x02", b"from the guest")
            os.write(tap, outward)
            while (got := host.recv(2048)) != outward:
                assert got == inward  # our own, as the socket sees it leave
    finally:
        os.close(tap)


def _next(tap: int) -> bytes:
    """The next frame of the test's protocol; the namespace sends others of its own."""
    import select

    while select.select([tap], [], [], 10)[0]:
        data = os.read(tap, 2048)
        if data[12:14] == struct.pack(">H", ETHERTYPE):
            return data
    raise TimeoutError("no frame came out of the tap")
