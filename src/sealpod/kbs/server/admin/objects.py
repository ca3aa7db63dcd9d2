# SPDX-License-Identifier: Apache-2.0
"""The key owner's things as JSON objects and back, for the admin API and for the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from sealpod.errors import DecodeError, UsageError
from sealpod.kbs.core.evidence import Evidence, decode_digest, encode_digest
from sealpod.kbs.core.policy import Rule
from sealpod.kbs.core.request import RawRequest
from sealpod.kbs.server.admin.suggestion import Suggestion
from sealpod.kbs.server.admin.trial import PolicyResult, RequestResult, Trial

if TYPE_CHECKING:
    from sealpod.kbs.store.connections import ConnectionInfo
    from sealpod.kbs.store.keysets import KeysetInfo
    from sealpod.kbs.store.launches import LaunchInfo
    from sealpod.kbs.store.policies import PolicyInfo
    from sealpod.kbs.store.reports import ReportKeyInfo
    from sealpod.kbs.store.resources import ResourceInfo
    from sealpod.kbs.store.secrets import SecretInfo

Object = dict[str, Any]

HEX_DIGEST: Final = re.compile(r"[0-9A-Fa-f]{64}")
VERSION: Final = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})")
_NO_GUID: Final = "00000000-0000-4000-8000-{:012x}"


def secret(info: SecretInfo) -> Object:
    """Without its value."""
    return {"id": info.id, "bytes": info.size, "policy": info.policy, "sealed": info.sealed}


def keyset(info: KeysetInfo) -> Object:
    """``secrets`` is null when the row cannot be read; such a keyset is never released."""
    secrets = None if info.secrets is None else list(info.secrets)
    return {"id": info.id, "secrets": secrets, "policy": info.policy}


def policy(info: PolicyInfo) -> Object:
    """Its rules are null when the row cannot be read; such a policy refuses everything."""
    shown: Object = {"name": info.name, "number": info.number, "valid": info.valid}
    if info.rule is None:
        return {**shown, "valid": False, "digests": None, "policies": None, "minApi": None, "buildIds": None}
    return {**shown, **rule_object(info.rule)}


def resource(info: ResourceInfo) -> Object:
    """Without the file."""
    return {"id": info.id, "type": info.type, "path": info.path, "policy": info.policy, "first": info.first}


def report_key(info: ReportKeyInfo) -> Object:
    """Its public half."""
    return {"id": info.id, "publicKey": info.public, "policy": info.policy, "sealed": info.sealed}


def connection(info: ConnectionInfo) -> Object:
    """Without its key."""
    return {
        "id": info.id,
        "active": info.active,
        "created": info.created,
        "root": info.root,
        "policy": info.policy,
        "firmware": info.firmware,
        "digest": info.digest,
        "description": info.description,
        "messages": info.messages,
    }


def launch(info: LaunchInfo) -> Object:
    """Without its keys."""
    return {
        "id": info.id,
        "policy": info.policy,
        "root": info.root,
        "chip": info.chip,
        "created": info.created,
        "expires": info.expires,
        "expired": info.expired,
    }


def rule_object(rule: Rule) -> Object:
    """A policy's rules."""
    return {
        "digests": list(rule.allowed_digests),
        "policies": list(rule.allowed_policies),
        "minApi": "{}.{}".format(*rule.min_api),
        "buildIds": list(rule.allowed_build_ids),
    }


def read_rule(body: Object) -> Rule:
    """:raise UsageError: a digest or a version is none."""
    return Rule(
        tuple(dict.fromkeys(digest(text) for text in body.get("digests", ()))),
        tuple(dict.fromkeys(body.get("policies", ()))),
        version(body.get("minApi", "0.0")),
        tuple(dict.fromkeys(body.get("buildIds", ()))),
    )


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


def digest(text: str) -> str:
    """A digest as policies hold it. 64 hex digits would be 48 bytes of base64, so there is no doubt.

    :raise UsageError: it is none.
    """
    if HEX_DIGEST.fullmatch(text):
        return encode_digest(bytes.fromhex(text))
    try:
        return encode_digest(decode_digest(text))
    except DecodeError as error:
        raise UsageError(
            f"not a launch digest: {text[:80]!r} ({error.message})",
            code="policy.digest-syntax",
            remedy="Give 32 bytes as 44 characters of base64 or 64 hex digits",
        ) from None


def version(text: str) -> tuple[int, int]:
    """MAJOR.MINOR. :raise UsageError: it is none."""
    match = VERSION.fullmatch(text)
    if match is None or int(match[1]) > 255 or int(match[2]) > 255:
        raise UsageError(f"not MAJOR.MINOR: {text[:40]!r}", code="policy.version-syntax")
    return int(match[1]), int(match[2])


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
