# SPDX-License-Identifier: Apache-2.0
"""Trials of policies and suggested ones as JSON objects, for the admin API and for the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sealpod.kbs.admin.noun import Object
from sealpod.kbs.admin.rules import digest, rule_object, version
from sealpod.kbs.admin.suggestion import Suggestion
from sealpod.kbs.admin.trial import PolicyResult, RequestResult, Trial
from sealpod.kbs.core.evidence import Evidence, encode_digest
from sealpod.kbs.core.request import RawRequest

_NO_GUID: Final = "00000000-0000-4000-8000-{:012x}"


def read_launch(body: Object) -> tuple[Evidence, tuple[RawRequest, ...]]:
    """What ``policy test`` is asked about. :raise UsageError: a digest or a version is none."""
    major, minor = version(body["api"])
    evidence = Evidence(body["policy"], major, minor, body["build"], digest(body["digest"]), "policy test")
    requests = tuple(
        # Each under a GUID of its own; a trial has no table that anybody would read.
        RawRequest(_NO_GUID.format(at + 1), one.get("format", "binary"), one["type"], one.get("id", ""))
        for at, one in enumerate(body["requests"])
    )
    return evidence, requests


def trial(done: Trial, names: Mapping[str, str]) -> Object:
    """The result of ``policy test``; ``names`` are policies' by their number."""
    return {
        "granted": done.granted,
        "error": _error(done.error),
        "default": _policy_result(done.default, {}),
        "requests": [_request_result(one, names) for one in done.requests],
        "tableBytes": done.table_size,
        "tableLimit": done.area,
    }


def suggestion(made: Suggestion) -> Object:
    """The result of ``policy suggest``: a body for ``PUT``, and what to think about."""
    return {
        "policy": rule_object(made.rule),
        "guests": [{"digest": encode_digest(guest.digest), "guest": guest.label()} for guest in made.guests],
        "notes": list(made.notes),
    }


def _request_result(one: RequestResult, names: Mapping[str, str]) -> Object:
    return {
        "secret": one.label,
        "granted": one.granted,
        "bytes": one.size,
        "error": _error(one.error),
        "policies": [_policy_result(policy, names) for policy in one.policies],
    }


def _policy_result(one: PolicyResult, names: Mapping[str, str]) -> Object:
    return {
        "policy": names.get(one.policy, one.policy),
        "agrees": one.agrees,
        "rules": [
            {"rule": rule.rule, "allowed": list(rule.allowed), "actual": rule.actual, "holds": rule.holds}
            for rule in one.rules
        ],
    }


def _error(error: Any) -> Object | None:
    return None if error is None else {"code": error.code, "message": error.message, "remedy": error.remedy}
