# SPDX-License-Identifier: Apache-2.0
"""A pod network of a test's own: a bridge this machine is on, and the CNI configuration that puts pods there.

The bridge is made before CNI would make it, so that servers for pods can listen on its address from the
start. CNI's plugin takes it as it is.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PLUGINS = ("/usr/lib/cni", "/opt/cni/bin")
SUBNETS = range(200, 250)  # 10.N.*.*, away from Kubernetes' and Docker's usual ones
SBIN = "/usr/sbin:/sbin"


def plugin_directory() -> str:
    """Where the CNI plugins are; empty when they are not installed."""
    return next((place for place in PLUGINS if os.path.exists(f"{place}/bridge")), "")


def portmap_missing() -> str:
    """Why ports cannot be mapped here; empty when they can."""
    if not os.path.exists(f"{plugin_directory()}/portmap"):
        return "no portmap plugin"
    if shutil.which("iptables", path=f"{os.environ.get('PATH', '')}:{SBIN}") is None:
        return "no iptables"
    done = run("iptables", "--table", "nat", "--list-rules", check=False)
    return f"iptables does not work: {done.stderr.strip()}" if done.returncode else ""


def run(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A command of iproute2 or the like; its output as text."""
    environment = os.environ | {"PATH": f"{os.environ.get('PATH', '')}:{SBIN}"}
    return subprocess.run(words, check=check, capture_output=True, text=True, env=environment)


@dataclass(frozen=True)
class Network:
    """A bridge with an address; pods get theirs from the same subnet."""

    name: str
    subnet: str
    gateway: str

    def configure(self, directory: str, state: str) -> None:
        """Write the CNI configuration to ``directory``; addresses in use are recorded in ``state``."""
        ipam = {
            "type": "host-local",
            "ranges": [[{"subnet": self.subnet, "gateway": self.gateway}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": state,
        }
        bridge = {"type": "bridge", "bridge": self.name, "isGateway": True, "mtu": 1500, "ipam": ipam}
        plugins: list[dict[str, object]] = [bridge]
        if not portmap_missing():
            plugins.append({"type": "portmap", "capabilities": {"portMappings": True}})
        document = {"cniVersion": "0.4.0", "name": self.name, "plugins": plugins}
        Path(directory, "10-test.conflist").write_text(json.dumps(document))

    def ports(self) -> list[str]:
        """Interfaces on the bridge: one for each pod."""
        links = json.loads(run("ip", "-json", "link", "show", "master", self.name).stdout or "[]")
        return [link["ifname"] for link in links if link]


@contextmanager
def pod_network() -> Iterator[Network]:
    """A network nobody else on this machine has, for the length of the block."""
    taken = run("ip", "-4", "route").stdout
    number = next(number for number in SUBNETS if f"10.{number}." not in taken)
    part = f"10.{number}.{secrets.randbelow(200) + 20}"
    made = Network(f"sp{secrets.token_hex(4)}", f"{part}.0/24", f"{part}.1")
    # An address of its own: else a bridge has the lowest of its ports', another one when a pod comes or goes,
    # and the other pods' neighbour entries for the gateway lead nowhere for up to half a minute. CNI's plugin
    # does this for bridges it made itself.
    mac = ":".join(f"{octet:02x}" for octet in (2, *secrets.token_bytes(5)))
    run("ip", "link", "add", made.name, "address", mac, "type", "bridge")
    try:
        run("ip", "address", "add", f"{made.gateway}/24", "dev", made.name)
        run("ip", "link", "set", made.name, "up")
        yield made
    finally:
        run("ip", "link", "delete", made.name, check=False)
