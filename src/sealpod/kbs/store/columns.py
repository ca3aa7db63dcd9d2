# SPDX-License-Identifier: Apache-2.0
"""Values to columns and back, where they differ."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Row

from sealpod.errors import DecodeError, RefusedError
from sealpod.kbs.core.audit import timestamp
from sealpod.kbs.core.policy import Rule

_SIGN: Final = 1 << 31
_WORD: Final = 1 << 32


def signed(word: int) -> int:
    """An unsigned 32-bit number for a signed 32-bit column (MySQL and PostgreSQL refuse larger ones)."""
    return word - _WORD if word >= _SIGN else word


def unsigned(column: int) -> int:
    """The number :func:`signed` put there."""
    return column % _WORD


def words(column: object) -> str:
    """The text of a text column. SQLite keeps bytes and numbers there too; what they become is no value of
    ours, so that they are told as what cannot be read."""
    return "" if column is None else str(column)


def moment(column: object) -> str | None:
    """Seconds since the epoch as text; None for what is no moment of any year."""
    try:
        return timestamp(column) if isinstance(column, int | float) else None
    except (ValueError, OverflowError, OSError):
        return None


def now() -> datetime:
    """For ``create_date``; UTC, without zone, as the columns are."""
    return datetime.now(UTC).replace(tzinfo=None, microsecond=0)


def rule_of(row: Row[Any]) -> Rule | None:
    """The policy joined to a secret or keyset; None when its row names none.

    Needs the columns ``polid``, ``policy_id``, ``in_force`` and the five of the policy.

    :raise RefusedError: the policy is missing, not in force (:func:`sealpod.kbs.store.moments.in_force`) or
        unreadable. simple-kbs logs this and releases.
    """
    if row.polid is None:
        return None
    if row.policy_id is None or row.in_force != 1:
        raise _unavailable(f"policy {row.polid} does not exist or is not in force")
    try:
        return replace(read_rule(row), name=str(row.polid))
    except DecodeError as error:
        raise _unavailable(f"policy {row.polid} cannot be read: {error.message}") from error


def read_rule(row: Row[Any]) -> Rule:
    """The policy in a row with its five columns.

    :raise DecodeError: one of them is NULL or malformed.
    """
    return Rule.from_columns(
        row.allowed_digests,
        row.allowed_policies,
        row.min_fw_api_major,
        row.min_fw_api_minor,
        row.allowed_build_ids,
    )


def names_of(column: object) -> tuple[str, ...]:
    """A keyset's members from their JSON text.

    :raise DecodeError: it is something else.
    """
    try:
        value = json.loads(column) if isinstance(column, str) else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise DecodeError(
            "a keyset's list of secrets cannot be read",
            code="keyset.malformed",
            remedy="the key owner sets it again with `sealpod kbs keyset set`",
        )
    return tuple(value)


def _unavailable(message: str) -> RefusedError:
    return RefusedError(
        message,
        code="policy.unavailable",
        remedy="the key owner sets the policy again with `sealpod kbs policy set`",
    )
