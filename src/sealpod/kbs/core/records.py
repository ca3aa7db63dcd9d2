# SPDX-License-Identifier: Apache-2.0
"""What the broker keeps: secrets, keysets, launches in progress, connections of running guests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sealpod.kbs.core.audit import Decision
from sealpod.kbs.core.evidence import Evidence
from sealpod.kbs.core.policy import Rule
from sealpod.secret import SecretBytes

MODEL_ROOT: Final = "model"
"""What a root trusted by fingerprint is called: AMD's are built in, so it is a software platform's."""


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
class StoredReportKey:
    """A key that signs reports: base64 text of PKCS #8, P-256."""

    id: str
    value: SecretBytes
    rule: Rule | None


@dataclass(frozen=True, slots=True)
class StoredResource:
    """A file that is released under its type; ``path`` is relative to the broker's resources."""

    id: str
    kind: str
    path: str
    rule: Rule | None


@dataclass(frozen=True, slots=True)
class Platform:
    """Which machine a launch is on, as its verified chain says; the last three are hex SHA-256.

    ``ark`` is of the root's certificate, ``chain`` of the whole chain, ``chip`` of the CEK's public key,
    which stays the same when the machine's owner makes other certificates.
    """

    root: str
    ark: str
    chain: str
    chip: str

    @property
    def kind(self) -> str:
        """``model`` for a software platform, ``silicon`` for one under AMD's roots."""
        return MODEL_ROOT if self.root == MODEL_ROOT else "silicon"


@dataclass(frozen=True, slots=True)
class Launch:
    """A launch between GetBundle and GetSecret.

    ``sealed_keys`` are the transport keys under the broker's sealer, bound to id and policy. Times are
    seconds since the epoch.
    """

    id: UUID
    policy: int
    sealed_keys: bytes
    platform: Platform
    created_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class Connection:
    """A guest that may ask online: its key (32 bytes, AES-256) and what its launch was.

    ``platform`` and ``created_at`` are None for one that simple-kbs made and that was not used here yet.
    """

    client_id: UUID
    key: SecretBytes
    evidence: Evidence
    platform: Platform | None = None
    created_at: float | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A decision and what it changes: kept together or not at all."""

    decision: Decision
    opens: Launch | None = None
    """A launch that begins."""
    spends: UUID | None = None
    """A launch that ends: nobody else may have ended it."""
    connections: tuple[Connection, ...] = ()
    """Connections that begin."""
    uses: UUID | None = None
    """The connection that asked: one more of its messages is counted."""
