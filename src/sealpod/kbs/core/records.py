# SPDX-License-Identifier: Apache-2.0
"""What the broker keeps: secrets, keysets, launches in progress, connections of running guests."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sealpod.kbs.core.evidence import Evidence
from sealpod.kbs.core.policy import Rule
from sealpod.secret import SecretBytes


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """A secret and the policy of its row; both from one read, so that they belong together.

    ``value`` is base64 text, as the tables have it.
    """

    id: str
    value: SecretBytes
    rule: Rule | None


@dataclass(frozen=True, slots=True)
class StoredKeyset:
    """The secret ids that make up a bundle."""

    id: str
    members: tuple[str, ...]
    rule: Rule | None


@dataclass(frozen=True, slots=True)
class Launch:
    """A launch between GetBundle and GetSecret.

    ``sealed_keys`` are the transport keys under the broker's sealer, bound to id and policy. ``root`` is
    the name of the trust root the platform's chain ended in. Times are seconds since the epoch.
    """

    id: UUID
    policy: int
    sealed_keys: bytes
    root: str
    created_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class Connection:
    """A guest that may ask online: its key (32 bytes, AES-256) and what its launch was."""

    client_id: UUID
    key: SecretBytes
    evidence: Evidence
