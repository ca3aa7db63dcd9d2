# SPDX-License-Identifier: Apache-2.0
"""Limits of a container, from the agent's messages to the OCI configuration's words."""

from __future__ import annotations

from typing import Any, Final

from sealpod.wire.message import Message

MAX_SIGNED: Final = (1 << 63) - 1


def resources(asked: Message) -> dict[str, Any]:
    """Limits that were given; zero means none, as everywhere in this API. Device rules are not among them."""
    sections = (("memory", memory(asked.Memory)), ("cpu", _cpu(asked.CPU)))
    found: dict[str, Any] = {section: given for section, given in sections if given}
    if asked.Pids.Limit:
        found["pids"] = {"limit": asked.Pids.Limit}
    huge = [{"pageSize": one.Pagesize, "limit": min(one.Limit, MAX_SIGNED)} for one in asked.HugepageLimits]
    if huge:
        found["hugepageLimits"] = huge
    return found


def memory(asked: Message) -> dict[str, Any]:
    """Bytes. ``swap`` is memory and swap together, so one below the memory limit means no swap at all."""
    given = _given(asked, (("limit", "Limit"), ("reservation", "Reservation"), ("swap", "Swap")))
    limit = given.get("limit", 0)
    if "swap" in given and (limit <= 0 or 0 < given["swap"] < limit):
        # A total without a limit, or below it, is an error of the runtime; the limit is what matters.
        del given["swap"]
        if limit > 0:
            given["swap"] = limit
    return given


def _cpu(asked: Message) -> dict[str, Any]:
    names = (("shares", "Shares"), ("quota", "Quota"), ("period", "Period"), ("cpus", "Cpus"))
    return _given(asked, (*names, ("mems", "Mems")))


def _given(asked: Message, names: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    return {name: getattr(asked, field) for name, field in names if getattr(asked, field)}


def rlimits(asked: Message) -> list[dict[str, Any]]:
    """Limits of a process (setrlimit(2))."""
    return [{"type": limit.Type, "hard": limit.Hard, "soft": limit.Soft} for limit in asked.Rlimits]


def seccomp(asked: Message) -> dict[str, Any]:
    """The system call filter, as it was given."""
    document: dict[str, Any] = {"defaultAction": asked.DefaultAction, "syscalls": []}
    if asked.Architectures:
        document["architectures"] = list(asked.Architectures)
    if asked.Flags:
        document["flags"] = list(asked.Flags)
    for rule in asked.Syscalls:
        entry: dict[str, Any] = {"names": list(rule.Names), "action": rule.Action}
        if rule.has("errnoret"):
            entry["errnoRet"] = rule.errnoret
        entry["args"] = [
            {"index": arg.Index, "value": arg.Value, "valueTwo": arg.ValueTwo, "op": arg.Op}
            for arg in rule.Args
        ]
        document["syscalls"].append(entry)
    return document
