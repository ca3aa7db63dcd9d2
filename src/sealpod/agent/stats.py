# SPDX-License-Identifier: Apache-2.0
"""A container's numbers from its cgroup (v2), the pod's from its network links, the guest's for a monitor."""

from __future__ import annotations

import os
from typing import Final

from sealpod.agent.spec import CGROUP_PARENT
from sealpod.wire.agentapi import MESSAGES
from sealpod.wire.message import Message

CGROUPS: Final = "/sys/fs/cgroup"
LINKS: Final = "/sys/class/net"
MAX_FILE: Final = 65536
NO_LIMIT: Final = 2**64 - 1


def read(container_id: str, *, cgroups: str = CGROUPS, links: str = LINKS) -> Message:
    """``StatsContainerResponse``. What the kernel does not tell is zero."""
    place = f"{cgroups}{CGROUP_PARENT}/{container_id}"
    group = MESSAGES.new(
        "CgroupStats", cpu_stats=_cpu(place), memory_stats=_memory(place), pids_stats=_pids(place)
    )
    networks = [_network(links, name) for name in sorted(_names(links)) if name != "lo"]
    return MESSAGES.new("StatsContainerResponse", cgroup_stats=group, network_stats=networks)


def metrics(containers: int) -> str:
    """The guest as Prometheus reads it."""
    memory = _pairs("/proc/meminfo", 1024)
    uptime = (_text("/proc/uptime").split(" ") or ["0"])[0] or "0"
    lines = [
        ("guest_uptime_seconds", uptime),
        ("guest_memory_total_bytes", str(memory.get("MemTotal:", 0))),
        ("guest_memory_available_bytes", str(memory.get("MemAvailable:", 0))),
        ("guest_containers", str(containers)),
        ("guest_processes", str(sum(name.isdecimal() for name in _names("/proc")))),
    ]
    return "".join(f"# TYPE sealpod_{name} gauge\nsealpod_{name} {value}\n" for name, value in lines)


def _cpu(place: str) -> Message:
    numbers = _pairs(f"{place}/cpu.stat", 1000)  # the kernel's microseconds in nanoseconds
    usage = MESSAGES.new(
        "CpuUsage",
        total_usage=numbers.get("usage_usec", 0),
        usage_in_kernelmode=numbers.get("system_usec", 0),
        usage_in_usermode=numbers.get("user_usec", 0),
    )
    throttling = MESSAGES.new(
        "ThrottlingData",
        periods=numbers.get("nr_periods", 0) // 1000,
        throttled_periods=numbers.get("nr_throttled", 0) // 1000,
        throttled_time=numbers.get("throttled_usec", 0),
    )
    return MESSAGES.new("CpuStats", cpu_usage=usage, throttling_data=throttling)


def _memory(place: str) -> Message:
    events = _pairs(f"{place}/memory.events")
    numbers = _pairs(f"{place}/memory.stat")
    usage = MESSAGES.new(
        "MemoryData",
        usage=_number(f"{place}/memory.current"),
        max_usage=_number(f"{place}/memory.peak"),
        failcnt=events.get("max", 0),
        limit=_number(f"{place}/memory.max"),
    )
    return MESSAGES.new(
        "MemoryStats",
        cache=numbers.get("file", 0),
        usage=usage,
        use_hierarchy=True,
        stats=[MESSAGES.new("MemoryStatsEntry", key=key, value=value) for key, value in numbers.items()],
    )


def _pids(place: str) -> Message:
    limit = _number(f"{place}/pids.max")
    return MESSAGES.new(
        "PidsStats", current=_number(f"{place}/pids.current"), limit=0 if limit == NO_LIMIT else limit
    )


def _network(links: str, name: str) -> Message:
    def count(what: str) -> int:
        return _number(f"{links}/{name}/statistics/{what}")

    return MESSAGES.new(
        "NetworkStats",
        name=name,
        rx_bytes=count("rx_bytes"),
        rx_packets=count("rx_packets"),
        rx_errors=count("rx_errors"),
        rx_dropped=count("rx_dropped"),
        tx_bytes=count("tx_bytes"),
        tx_packets=count("tx_packets"),
        tx_errors=count("tx_errors"),
        tx_dropped=count("tx_dropped"),
    )


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(MAX_FILE)
    except OSError:
        return ""


def _number(path: str) -> int:
    text = _text(path).strip()
    if text == "max":
        return NO_LIMIT
    return int(text) if text.isdecimal() else 0


def _pairs(path: str, factor: int = 1) -> dict[str, int]:
    """``name number`` lines."""
    found: dict[str, int] = {}
    for line in _text(path).splitlines():
        name, *rest = line.split()
        if rest and rest[0].isdecimal():
            found[name] = int(rest[0]) * factor
    return found
