# SPDX-License-Identifier: Apache-2.0
"""Links, addresses and routes in a network namespace of its own, checked with iproute2."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.agent import netlink, network
from sealpod.errors import DecodeError, NotFoundError, UsageError
from sealpod.wire.agentapi import MESSAGES as M

ADDRESS = "52:54:00:12:34:56"
SCRIPT = f"""
import subprocess
from sealpod.agent import netlist, network
from sealpod.errors import SealpodError
from sealpod.wire.agentapi import MESSAGES as M

def ip(*words):
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout

ip("link", "add", "odd", "address", "{ADDRESS}", "type", "veth", "peer", "name", "far")
ip("link", "set", "far", "up")
ip("link", "add", "eth0", "type", "veth", "peer", "name", "other")  # the name is taken
network.bring_up_loopback()
addresses = [M.new("IPAddress", address="10.0.2.15", mask="24"),
             M.new("IPAddress", family=1, address="fd00::2", mask="64")]
wanted = M.new("Interface", device="eth0", name="eth0", hwAddr="{ADDRESS.upper()}", mtu=1400,
               IPAddresses=addresses)
network.update_interface(wanted)
network.update_interface(wanted)
routes = [M.new("Route", gateway="10.0.2.2", device="eth0"),
          M.new("Route", dest="10.9.0.0/16", device="eth0", scope=253, source="10.0.2.15"),
          M.new("Route", gateway="fd00::1", device="eth0", family=1)]
network.update_routes(routes)
network.update_routes(routes)
try:
    network.update_routes([M.new("Route", gateway="192.0.2.1", device="eth0")])
except SealpodError as exc:
    print(exc.one_line())
neighbours = [M.new("ARPNeighbor", toIPAddress=M.new("IPAddress", address=address), device="eth0",
                    lladdr="02:00:00:00:00:09") for address in ("10.0.2.9", "fd00::9")]
network.add_neighbours(neighbours)
network.add_neighbours(neighbours)
for one in netlist.interfaces():
    addresses = sorted("%d:%s/%s" % (a.family, a.address, a.mask) for a in one.IPAddresses)
    print("interface", one.name, one.hwAddr, one.mtu, *addresses)
for one in netlist.routes():
    words = (one.family, one.dest or "default", one.gateway or "-", one.device, one.source or "-", one.scope)
    print("listed", *words)
print(ip("neigh"))
for words in ("-4 addr show", "-6 addr show eth0", "route", "-6 route", "link show eth0"):
    print(ip(*words.split()))
"""


@pytest.fixture(scope="module")
def configured() -> str:
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("needs root, ip and unshare")
    command = ["unshare", "--net", sys.executable, "-c", SCRIPT]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if "not permitted" in result.stderr or "Unknown device type" in result.stderr:
        pytest.skip("needs a network namespace with veth")
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_addresses(configured: str) -> None:
    assert "inet 127.0.0.1/8" in configured
    assert "inet 10.0.2.15/24" in configured
    assert "inet6 fd00::2/64" in configured


def test_routes(configured: str) -> None:
    assert "default via 10.0.2.2 dev eth0" in configured
    assert "10.9.0.0/16 dev eth0 scope link src 10.0.2.15" in configured
    assert "default via fd00::1 dev eth0" in configured


def test_the_link_is_renamed_and_up(configured: str) -> None:
    assert "mtu 1400" in configured
    assert ",UP" in configured


def test_a_link_whose_name_was_taken_gets_it(configured: str) -> None:
    lines = [line.split() for line in configured.splitlines() if line.startswith("interface")]
    names = {name: hardware for _, name, hardware, *_ in lines}
    assert names["eth0"] == ADDRESS
    assert "odd" in names  # the name the other one got


def test_what_is_listed(configured: str) -> None:
    eth0 = next(line for line in configured.splitlines() if line.startswith("interface eth0"))
    assert eth0.startswith(f"interface eth0 {ADDRESS} 1400 0:10.0.2.15/24 1:fd00::2/64")
    assert "interface lo 00:00:00:00:00:00 65536 0:127.0.0.1/8" in configured
    assert "listed 0 default 10.0.2.2 eth0 - 0" in configured
    assert "listed 0 10.9.0.0/16 - eth0 10.0.2.15 253" in configured
    assert "listed 1 default fd00::1 eth0 - 0" in configured


def test_neighbours(configured: str) -> None:
    assert "10.0.2.9 dev eth0 lladdr 02:00:00:00:00:09 PERMANENT" in configured
    assert "fd00::9 dev eth0 lladdr 02:00:00:00:00:09 PERMANENT" in configured


@pytest.mark.parametrize(
    "values",
    [
        {"lladdr": "02:00:00:00:00"},
        {"lladdr": "no"},
        {"lladdr": "02:00:00:00:00:09", "state": -1},
        {"lladdr": "02:00:00:00:00:09", "toIPAddress": M.new("IPAddress", address="10.0")},
    ],
)
def test_neighbours_that_make_no_sense(values: dict[str, object]) -> None:
    values = {"toIPAddress": M.new("IPAddress", address="10.0.2.9"), "device": "lo", **values}
    with pytest.raises(UsageError):
        network.add_neighbours([M.new("ARPNeighbor", **values)])


def test_the_kernels_refusal_is_told(configured: str) -> None:
    assert "cannot add the route to everywhere: Network is unreachable [agent.network]" in configured


@pytest.mark.parametrize(
    "interface",
    [
        M.new("Interface", device="no-such-link"),
        M.new("Interface", hwAddr="00:00:00:00:00:99"),
    ],
)
def test_absent_links(interface: object) -> None:
    with pytest.raises(NotFoundError):
        network.update_interface(interface)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "interface",
    [
        M.new("Interface", device="lo", mtu=70000),
        M.new("Interface", device="lo", name="with/slash"),
        M.new("Interface", device="lo", name="a-name-that-is-too-long"),
    ],
)
def test_interfaces_that_make_no_sense(interface: object) -> None:
    with pytest.raises(UsageError):
        network.update_interface(interface)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "route",
    [
        M.new("Route", device="lo", dest="10.0.0.0/33"),
        M.new("Route", device="lo", dest="10.0.0.0/-1"),
        M.new("Route", device="lo", dest="ten/8"),
        M.new("Route", device="lo", gateway="10.0.2"),
        M.new("Route", device="lo", scope=256),
    ],
)
def test_routes_that_make_no_sense(route: object) -> None:
    with pytest.raises(UsageError):
        network.update_routes([route])  # type: ignore[list-item]


def test_resolv_conf_keeps_what_a_resolver_reads() -> None:
    lines = ["nameserver 10.0.2.3", " search a b ", "# note", "", "nameserver 1\nnameserver 2", "rm -rf"]
    assert network.resolv_conf(lines) == "nameserver 10.0.2.3\nsearch a b\n"


def test_netlink_bytes() -> None:
    """linux/rtnetlink.h by hand: header, rtmsg, RTA_OIF, RTA_GATEWAY."""
    data = netlink.add_route(7, 2, 2, gateway=bytes([10, 0, 2, 2]))
    assert data == bytes.fromhex(
        "2c000000" "1800" "0505" "07000000" "00000000"
        "02" "00" "00" "00" "fe" "03" "00" "01" "00000000"
        "0800" "0400" "02000000"
        "0800" "0500" "0a000202"
    )  # fmt: skip


@given(st.binary(max_size=60))
def test_noise_from_netlink(data: bytes) -> None:
    for parse in (
        lambda: netlink.parse_reply(data, 1),
        lambda: list(netlink.messages(data, 1)),
        lambda: netlink.link(data),
        lambda: netlink.address(data),
        lambda: netlink.route(data),
    ):
        with contextlib.suppress(DecodeError):
            parse()  # type: ignore[no-untyped-call]
