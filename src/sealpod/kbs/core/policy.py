# SPDX-License-Identifier: Apache-2.0
"""Policies: which launches may have a secret (simple-kbs' five fields, in its order and with its texts).

A release needs every policy that applies to say yes: the broker's default, the secret's or keyset's own,
and those of a keyset's members. Adding a policy therefore never loosens anything. A policy that cannot be
read refuses; simple-kbs logs that and goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from sealpod.errors import DecodeError, RefusedError
from sealpod.kbs.core.evidence import Evidence

MAX_COLUMN: Final = 1 << 20
"""Characters of one list read from a policy row: some 20000 digests."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One policy. An empty tuple allows any value; ``min_api`` is (major, minor).

    ``name`` is what the records call it; two policies that say the same are equal whatever their names.
    """

    allowed_digests: tuple[str, ...] = ()
    allowed_policies: tuple[int, ...] = ()
    min_api: tuple[int, int] = (0, 0)
    allowed_build_ids: tuple[int, ...] = ()
    name: str = field(default="", compare=False)

    @classmethod
    def from_columns(
        cls, digests: object, policies: object, min_major: object, min_minor: object, builds: object
    ) -> Rule:
        """A policy from the five columns of its row, lists as JSON text.

        :raise DecodeError: a column is NULL or not what it should be.
        """
        return cls(
            _strings(_json_list(digests)),
            _integers(_json_list(policies)),
            (_integer(min_major), _integer(min_minor)),
            _integers(_json_list(builds)),
        )

    @classmethod
    def from_json(cls, text: str) -> Rule:
        """A policy from simple-kbs' ``default_policy.json``: an object with all five fields.

        :raise DecodeError: not such an object.
        """
        value = _json(text)
        if not isinstance(value, dict):
            raise _malformed("a policy is a JSON object")
        names = ("allowed_digests", "allowed_policies", "min_fw_api_major", "min_fw_api_minor")
        missing = [name for name in (*names, "allowed_build_ids") if name not in value]
        if missing:
            raise _malformed(f"the policy lacks {', '.join(missing)}")
        return cls(
            _strings(value["allowed_digests"]),
            _integers(value["allowed_policies"]),
            (_integer(value["min_fw_api_major"]), _integer(value["min_fw_api_minor"])),
            _integers(value["allowed_build_ids"]),
        )

    def columns(self) -> tuple[str, str, int, int, str]:
        """The five columns :meth:`from_columns` reads."""
        return (
            json.dumps(list(self.allowed_digests)),
            json.dumps(list(self.allowed_policies)),
            *self.min_api,
            json.dumps(list(self.allowed_build_ids)),
        )


ALLOW_ALL: Final = Rule()
"""simple-kbs' shipped default policy."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A rule of a policy that does not hold: which, what it allows, and what was found instead."""

    policy: str
    rule: str
    text: str
    allowed: tuple[object, ...]
    actual: object

    def error(self) -> RefusedError:
        """The refusal, in simple-kbs' words."""
        return RefusedError(self.text, code=f"policy.{self.rule}", remedy=_REMEDIES[self.rule])


def first_mismatch(rule: Rule, evidence: Evidence) -> Mismatch | None:
    """The first of these that does not hold, or None:

    1. the launch digest is among the allowed ones
    2. the SEV policy word is among the allowed ones
    3. the firmware's API major is not below the minimum
    4. if it equals the minimum, neither is the minor
    5. the build is among the allowed ones
    """

    def mismatch(name: str, text: str, allowed: tuple[object, ...], actual: object) -> Mismatch:
        return Mismatch(rule.name, name, text, allowed, actual)

    major, minor = rule.min_api
    # (1)
    if rule.allowed_digests and evidence.digest not in rule.allowed_digests:
        return mismatch("digest", "fw digest not valid", rule.allowed_digests, evidence.digest)
    # (2)
    if rule.allowed_policies and evidence.policy not in rule.allowed_policies:
        return mismatch("sev-policy", "policy not valid", rule.allowed_policies, evidence.policy)
    # (3)
    if evidence.api_major < major:
        return mismatch("api-major", "fw api major not valid", (major,), evidence.api_major)
    # (4) A larger major makes the minor meaningless.
    if evidence.api_major == major and evidence.api_minor < minor:
        return mismatch("api-minor", "fw api minor not valid", (minor,), evidence.api_minor)
    # (5)
    if rule.allowed_build_ids and evidence.build_id not in rule.allowed_build_ids:
        return mismatch("build-id", "build id not valid", rule.allowed_build_ids, evidence.build_id)
    return None


def check(rule: Rule, evidence: Evidence) -> None:
    """Say yes by returning.

    :raise RefusedError: :func:`first_mismatch` found one.
    """
    found = first_mismatch(rule, evidence)
    if found is not None:
        raise found.error()


def check_all(rules: Iterable[Rule], evidence: Evidence) -> None:
    """Every rule must say yes.

    :raise RefusedError: of the first that does not.
    """
    for rule in rules:
        check(rule, evidence)


_DIGEST_REMEDY: Final = (
    "compare firmware, kernel, initrd and command line of the launch with those the policy's digest was "
    "calculated from (sealpod measure)"
)
_POLICY_REMEDY: Final = "launch with an SEV policy the key owner allows"
_FIRMWARE_REMEDY: Final = "use a platform whose SEV firmware the key owner's policy allows"
_REMEDIES: Final = {
    "digest": _DIGEST_REMEDY,
    "sev-policy": _POLICY_REMEDY,
    "api-major": _FIRMWARE_REMEDY,
    "api-minor": _FIRMWARE_REMEDY,
    "build-id": _FIRMWARE_REMEDY,
}


def _malformed(message: str) -> DecodeError:
    return DecodeError(
        message, code="policy.malformed", remedy="set the policy again with `sealpod kbs policy set`"
    )


def _json(text: str) -> object:
    if len(text) > MAX_COLUMN:
        raise _malformed(f"a policy column holds more than {MAX_COLUMN} characters")
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        raise _malformed("the text of a policy is not JSON") from None
    return value


def _json_list(column: object) -> object:
    if not isinstance(column, str):
        raise _malformed("a policy column is empty")
    return _json(column)


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _malformed("allowed digests are a list of texts")
    return tuple(value)


def _integers(value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise _malformed("allowed policies and builds are lists of numbers")
    return tuple(_integer(item) for item in value)


def _integer(value: object) -> int:
    # bool is an int to Python and not to JSON.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 0xFFFF_FFFF:
        raise _malformed("a policy number is not a 32-bit unsigned integer")
    return value
