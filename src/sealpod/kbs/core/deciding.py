# SPDX-License-Identifier: Apache-2.0
"""Filling a decision's record while a call goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from sealpod.errors import SealpodError
from sealpod.kbs.core.audit import MAX_VALUES, Caller, Decision, Failure
from sealpod.kbs.core.evidence import Evidence
from sealpod.kbs.core.policy import Rule, first_mismatch
from sealpod.kbs.core.records import Change, Platform

MAX_DIGEST: Final = 64
"""Characters of a stranger's digest in the records; a real one has 44."""

Reply = TypeVar("Reply")


@dataclass(frozen=True, slots=True)
class Prepared(Generic[Reply]):
    """Everything a call comes to, before anything of it holds: the change, and the reply or the refusal."""

    change: Change
    reply: Reply | SealpodError


def begin(call: str, caller: Caller | None, *, rng: Callable[[int], bytes]) -> Decision:
    """A record that says failed until it is known better."""
    caller = Caller() if caller is None else caller
    request = caller.request or rng(8).hex()
    return Decision(call, request=request, peer=caller.peer, identity=caller.identity)


def describe(decision: Decision, evidence: Evidence) -> None:
    """What the launch claims to be."""
    decision.policy = hex_word(evidence.policy)
    decision.digest = evidence.digest[:MAX_DIGEST]
    decision.firmware = f"{evidence.api_major}.{evidence.api_minor}.{evidence.build_id}"
    decision.description = evidence.description


def name_platform(decision: Decision, platform: Platform | None) -> None:
    """Which machine it is on, as far as that is known."""
    if platform is not None:
        decision.platform, decision.root, decision.ark = platform.kind, platform.root, platform.ark
        decision.chain, decision.chip = platform.chain, platform.chip


def check_rules(decision: Decision, rules: Iterable[Rule], evidence: Evidence) -> None:
    """Every rule must say yes; names those that did, or the first that did not and why.

    :raise RefusedError: ``policy.*``.
    """
    for rule in rules:
        found = first_mismatch(rule, evidence)
        if found is not None:
            fail(decision, found.policy, found.rule, found.allowed, found.actual)
            raise found.error()
        if rule.name and rule.name not in decision.rules:
            decision.rules += (rule.name,)


def fail(decision: Decision, policy: str, rule: str, allowed: tuple[object, ...], actual: object) -> None:
    """Note a rule that did not hold."""
    quoted = allowed[:MAX_VALUES]
    if len(allowed) > MAX_VALUES:
        quoted += (f"and {len(allowed) - MAX_VALUES} more",)
    decision.failed = Failure(
        policy, rule, quoted, actual[:MAX_DIGEST] if isinstance(actual, str) else actual
    )


def conclude(decision: Decision, reply: object, time: str) -> None:
    """The call has come to a reply or to a refusal that changes something."""
    if isinstance(reply, SealpodError):
        refuse(decision, reply, time)
    else:
        decision.outcome, decision.time = "granted", time


def refuse(decision: Decision, error: Exception, time: str) -> None:
    """The call came to nothing. The text of a bug of ours may quote anything; its type does not."""
    decision.time, decision.released = time, ()
    if isinstance(error, SealpodError):
        decision.outcome, decision.code, decision.reason = "refused", error.code, error.message
    else:
        decision.outcome, decision.code = "failed", "internal.error"
        decision.reason = type(error).__name__


def hex_word(value: int) -> str:
    """An SEV policy as it is usually written."""
    return f"0x{value:08x}"
