# SPDX-License-Identifier: Apache-2.0
"""``policy test``: what a launch would get, and why not. Nothing is released, spent or kept.

Each request is looked up and judged as the broker would, except that all rules of all policies are told and
not only the first that fails.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sealpod.errors import SealpodError
from sealpod.kbs.core.asker import Asker, NoFiles
from sealpod.kbs.core.evidence import Evidence, check_version_bytes
from sealpod.kbs.core.gathering import gather
from sealpod.kbs.core.limits import Limits
from sealpod.kbs.core.policy import Rule, first_mismatch
from sealpod.kbs.core.ports import BrokerStore, ResourceFiles
from sealpod.kbs.core.request import RawRequest, SecretRequest, parse_requests

DEFAULT_NAME: Final = "(default)"
"""What the broker's own policy is called in a trial."""
ENTRY_HEADER: Final = 20
"""Bytes before each payload of the secret table, and before all of them."""
PADDING: Final = 16


@dataclass(frozen=True, slots=True)
class RuleResult:
    """One rule of a policy: what it allows, and whether that holds. Nothing allowed means anything is."""

    rule: str
    allowed: tuple[object, ...]
    actual: object
    holds: bool


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """One policy."""

    policy: str
    rules: tuple[RuleResult, ...]

    @property
    def agrees(self) -> bool:
        """Whether all its rules hold."""
        return all(rule.holds for rule in self.rules)


@dataclass(frozen=True, slots=True)
class RequestResult:
    """One secret asked for. ``error`` is why it cannot be answered whatever the policies say."""

    label: str
    policies: tuple[PolicyResult, ...]
    size: int
    error: SealpodError | None

    @property
    def granted(self) -> bool:
        """Whether the broker would release it."""
        return self.error is None and all(policy.agrees for policy in self.policies)


@dataclass(frozen=True, slots=True)
class Trial:
    """The whole launch."""

    requests: tuple[RequestResult, ...]
    default: PolicyResult
    error: SealpodError | None
    """Why no request is looked at."""
    table_size: int
    """Bytes of the launch secret table."""
    area: int
    """Bytes a guest has for it."""

    @property
    def granted(self) -> bool:
        """Whether GetSecret would release all of it at once."""
        return (
            self.error is None
            and self.default.agrees
            and all(one.granted for one in self.requests)
            and self.table_size <= self.area
        )


def try_launch(
    store: BrokerStore,
    evidence: Evidence,
    requests: Sequence[RawRequest],
    *,
    default: Rule,
    limits: Limits | None = None,
    files: ResourceFiles | None = None,
) -> Trial:
    """What a launch with this evidence would get if its measurement proves it.

    :raise DecodeError, UsageError: digest or requests are malformed.
    """
    limits = Limits() if limits is None else limits
    evidence.digest_bytes()
    parsed = parse_requests(requests, guids_are_uuids=True)
    files = NoFiles() if files is None else files
    asker = Asker(evidence, None, time.time(), limits.report_ttl, os.urandom, files)
    results = tuple(_try(store, one, asker) for one in parsed)
    table = ENTRY_HEADER + sum(ENTRY_HEADER + one.size for one in results)
    table += -table % PADDING
    return Trial(results, judge(default, evidence, DEFAULT_NAME), _fit(evidence), table, limits.secret_area)


def judge(rule: Rule, evidence: Evidence, name: str = "") -> PolicyResult:
    """Every rule of one policy, each by the core's own check."""
    parts = (
        ("digest", Rule(allowed_digests=rule.allowed_digests), rule.allowed_digests, evidence.digest),
        ("sev-policy", Rule(allowed_policies=rule.allowed_policies), rule.allowed_policies, evidence.policy),
        (
            "min-api",
            Rule(min_api=rule.min_api),
            ("{}.{}".format(*rule.min_api),) if rule.min_api != (0, 0) else (),
            f"{evidence.api_major}.{evidence.api_minor}",
        ),
        (
            "build-id",
            Rule(allowed_build_ids=rule.allowed_build_ids),
            rule.allowed_build_ids,
            evidence.build_id,
        ),
    )
    results = tuple(
        RuleResult(label, tuple(allowed), actual, first_mismatch(part, evidence) is None)
        for label, part, allowed, actual in parts
    )
    return PolicyResult(rule.name or name, results)


def _try(store: BrokerStore, request: SecretRequest, asker: Asker) -> RequestResult:
    try:
        material = gather(store, request, asker)
    except SealpodError as error:
        return RequestResult(request.label(), (), 0, error)
    # The members of a bundle may share a policy, which then says the same of each.
    rules = {rule.name: rule for rule in material.rules}
    policies = tuple(judge(rule, asker.evidence) for rule in rules.values())
    try:
        size = len(material.payload())
    except SealpodError as error:
        return RequestResult(request.label(), policies, 0, error)
    return RequestResult(request.label(), policies, size, None)


def _fit(evidence: Evidence) -> SealpodError | None:
    try:
        check_version_bytes(evidence.api_major, evidence.api_minor, evidence.build_id)
    except SealpodError as error:
        return error
    return None
