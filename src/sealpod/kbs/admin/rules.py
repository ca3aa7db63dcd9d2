# SPDX-License-Identifier: Apache-2.0
"""A policy's rules as JSON and as options, and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from sealpod.errors import DecodeError, UsageError
from sealpod.kbs.core.evidence import decode_digest, encode_digest
from sealpod.kbs.core.policy import Rule
from sealpod.sev.policy import Policy

_HEX_DIGEST: Final = re.compile(r"[0-9A-Fa-f]{64}")
_VERSION: Final = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})")
_BYTE: Final = re.compile(r"[0-9]{1,3}")


def rule_object(rule: Rule) -> dict[str, Any]:
    """A policy's rules."""
    return {
        "digests": list(rule.allowed_digests),
        "policies": list(rule.allowed_policies),
        "minApi": "{}.{}".format(*rule.min_api),
        "buildIds": list(rule.allowed_build_ids),
    }


def read_rule(body: dict[str, Any]) -> Rule:
    """:raise UsageError: a digest or a version is none."""
    return _rule(
        body.get("digests", ()),
        body.get("policies", ()),
        version(body.get("minApi", "0.0")),
        body.get("buildIds", ()),
    )


def read_options(digests: Sequence[str], policies: Sequence[str], least: str, builds: Sequence[str]) -> Rule:
    """What the options of ``policy set`` say. :raise UsageError: one of them cannot be."""
    checked = [digest(text) for text in digests]
    words = [Policy.parse(text).value for text in policies]
    match = _VERSION.fullmatch(least)
    # Each half says for itself that it is too large.
    min_api = version(least) if match is None else (byte(match[1]), byte(match[2]))
    return _rule(checked, words, min_api, [byte(text) for text in builds])


def _rule(
    digests: Iterable[str], policies: Iterable[int], min_api: tuple[int, int], builds: Iterable[int]
) -> Rule:
    unique = dict.fromkeys
    return Rule(
        tuple(unique(digest(text) for text in digests)),
        tuple(unique(policies)),
        min_api,
        tuple(unique(builds)),
    )


def digest(text: str) -> str:
    """A digest as policies hold it. 64 hex digits would be 48 bytes of base64, so there is no doubt.

    :raise UsageError: it is none.
    """
    if _HEX_DIGEST.fullmatch(text):
        return encode_digest(bytes.fromhex(text))
    try:
        return encode_digest(decode_digest(text))
    except DecodeError as error:
        raise UsageError(
            f"not a launch digest: {text[:80]!r} ({error.message})",
            code="policy.digest-syntax",
            remedy="give 32 bytes as 44 characters of base64 or 64 hex digits",
        ) from None


def version(text: str) -> tuple[int, int]:
    """MAJOR.MINOR. :raise UsageError: it is none."""
    match = _VERSION.fullmatch(text)
    if match is None or int(match[1]) > 255 or int(match[2]) > 255:
        raise UsageError(f"not MAJOR.MINOR: {text[:40]!r}", code="policy.version-syntax")
    return int(match[1]), int(match[2])


def byte(text: str) -> int:
    """0 to 255. :raise UsageError: it is something else."""
    if _BYTE.fullmatch(text) is None or int(text) > 255:
        raise UsageError(f"not a number from 0 to 255: {text[:40]!r}", code="policy.version-syntax")
    return int(text)
