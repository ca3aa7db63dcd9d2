# SPDX-License-Identifier: Apache-2.0
"""Which calls of the host are answered: what the pod's owner allows by measured settings.

A call is named by its request message, as in Kata: ``ExecProcessRequest``, ``ReadStreamRequest`` (both
outputs and the last words), ``CopyFileRequest``. With a list of allowed ones everything else is blocked; what
is on the list of blocked ones is blocked in any case. The health service always answers.
"""

from __future__ import annotations

from typing import NamedTuple

from sealpod.errors import UsageError
from sealpod.wire.agentapi import AGENT, METHODS


class Endpoints(NamedTuple):
    """``allowed`` None means all."""

    allowed: frozenset[str] | None = None
    blocked: frozenset[str] = frozenset()

    def refusals(self) -> dict[tuple[str, str], str]:
        """What to answer to the calls that are blocked, by service and method."""
        if self.allowed is None and not self.blocked:
            return {}
        return {
            (service, method): f"{request} is blocked"
            for (service, method), (request, _) in METHODS.items()
            if service == AGENT and not self.allows(request)
        }

    def allows(self, request: str) -> bool:
        """Whether calls by this request message are answered."""
        return request not in self.blocked and (self.allowed is None or request in self.allowed)


def parse(allowed: str | None, blocked: str) -> Endpoints:
    """From lists with commas. Raises :class:`UsageError` for a name to block that does not exist.

    An unknown name among the allowed ones, of another version's call, allows nothing and is no mistake.
    """
    if allowed is None and not blocked:
        return Endpoints()
    names = frozenset(filter(None, blocked.split(",")))
    known = {request for (service, _), (request, _) in METHODS.items() if service == AGENT}
    unknown = sorted(names - known)
    if unknown:
        text = f"the agent has no call {unknown[0]!r} to block"
        raise UsageError(text, code="agent.parameter", remedy="name request messages, as ExecProcessRequest")
    return Endpoints(None if allowed is None else frozenset(filter(None, allowed.split(","))), names)
