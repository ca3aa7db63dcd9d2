# SPDX-License-Identifier: Apache-2.0
"""The agent's numbers of a container as containerd wants them: cgroup v2 or v1 metrics, by this host's kind.

kubelet reads processor time, memory and process counts; the guest's cgroups are always version 2.
"""

from __future__ import annotations

import os
from typing import Final

from sealpod.wire.message import Message, Schema
from sealpod.wire.pb import agent_pb2
from sealpod.wire.taskapi import MESSAGES, METRICS_V1, METRICS_V2

UNIFIED: Final = "/sys/fs/cgroup/cgroup.controllers"

V1: Final = Schema(
    """\
Metrics pids=2:Pids cpu=3:Cpu memory=4:Memory
Pids current=1:uint64 limit=2:uint64
Cpu usage=1:CpuUsage throttling=2:Throttle
CpuUsage total=1:uint64 kernel=2:uint64 user=3:uint64
Throttle periods=1:uint64 throttled_periods=2:uint64 throttled_time=3:uint64
Memory cache=1:uint64 rss=2:uint64 pg_fault=9:uint64 pg_maj_fault=10:uint64 total_cache=18:uint64
  total_rss=19:uint64 total_inactive_file=30:uint64 usage=33:Entry
Entry limit=1:uint64 usage=2:uint64 max=3:uint64 failcnt=4:uint64
"""
)
V2: Final = Schema(
    """\
Metrics pids=1:Pids cpu=2:Cpu memory=4:Memory
Pids current=1:uint64 limit=2:uint64
Cpu usage_usec=1:uint64 user_usec=2:uint64 system_usec=3:uint64 nr_periods=4:uint64 nr_throttled=5:uint64
  throttled_usec=6:uint64
Memory anon=1:uint64 file=2:uint64 inactive_file=13:uint64 pgfault=18:uint64 pgmajfault=19:uint64
  usage=32:uint64 usage_limit=33:uint64
"""
)


def pack(stats: agent_pb2.StatsContainerResponse, *, unified: bool | None = None) -> Message:
    """An ``Any`` with the metrics. ``unified``: whether the host has cgroup v2 only (default: looked up)."""
    two = os.path.exists(UNIFIED) if unified is None else unified
    value = (_v2(stats) if two else _v1(stats)).encode()
    return MESSAGES.new("Any", type_url=METRICS_V2 if two else METRICS_V1, value=value)


def _v1(stats: agent_pb2.StatsContainerResponse) -> Message:
    group = stats.cgroup_stats
    cpu, memory = group.cpu_stats.cpu_usage, group.memory_stats
    held, detail = group.cpu_stats.throttling_data, _details(memory)
    usage = V1.new(
        "Entry",
        limit=memory.usage.limit,
        usage=memory.usage.usage,
        max=memory.usage.max_usage,
        failcnt=memory.usage.failcnt,
    )
    return V1.new(
        "Metrics",
        pids=V1.new("Pids", current=group.pids_stats.current, limit=group.pids_stats.limit),
        cpu=V1.new(
            "Cpu",
            usage=V1.new(
                "CpuUsage",
                total=cpu.total_usage,
                kernel=cpu.usage_in_kernelmode,
                user=cpu.usage_in_usermode,
            ),
            throttling=V1.new(
                "Throttle",
                periods=held.periods,
                throttled_periods=held.throttled_periods,
                throttled_time=held.throttled_time,
            ),
        ),
        memory=V1.new(
            "Memory",
            cache=detail.get("file", 0),
            rss=detail.get("anon", 0),
            pg_fault=detail.get("pgfault", 0),
            pg_maj_fault=detail.get("pgmajfault", 0),
            total_cache=detail.get("file", 0),
            total_rss=detail.get("anon", 0),
            total_inactive_file=detail.get("inactive_file", 0),
            usage=usage,
        ),
    )


def _v2(stats: agent_pb2.StatsContainerResponse) -> Message:
    group = stats.cgroup_stats
    cpu, memory = group.cpu_stats.cpu_usage, group.memory_stats
    held, detail = group.cpu_stats.throttling_data, _details(memory)
    return V2.new(
        "Metrics",
        pids=V2.new("Pids", current=group.pids_stats.current, limit=group.pids_stats.limit),
        cpu=V2.new(
            "Cpu",
            usage_usec=cpu.total_usage // 1000,
            user_usec=cpu.usage_in_usermode // 1000,
            system_usec=cpu.usage_in_kernelmode // 1000,
            nr_periods=held.periods,
            nr_throttled=held.throttled_periods,
            throttled_usec=held.throttled_time // 1000,
        ),
        memory=V2.new(
            "Memory",
            anon=detail.get("anon", 0),
            file=detail.get("file", 0),
            inactive_file=detail.get("inactive_file", 0),
            pgfault=detail.get("pgfault", 0),
            pgmajfault=detail.get("pgmajfault", 0),
            usage=memory.usage.usage,
            usage_limit=memory.usage.limit,
        ),
    )


def _details(memory: agent_pb2.MemoryStats) -> dict[str, int]:
    """The kernel's own names and numbers (``memory.stat``)."""
    return {entry.key: entry.value for entry in memory.stats}
