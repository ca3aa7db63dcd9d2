# SPDX-License-Identifier: Apache-2.0
"""What the broker needs from outside, as small as it can be said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from sealpod.kbs.core.audit import Decision
from sealpod.kbs.core.records import Connection, Launch, StoredKeyset, StoredSecret
from sealpod.secret import SecretBytes


class BrokerStore(Protocol):
    """The broker's records. Lookups give None for what is not there and raise for what cannot be told.

    Every method may raise ``OperationError`` or ``UnavailableError`` when the database fails.
    """

    def find_secret(self, secret_id: str) -> StoredSecret | None:
        """:raise RefusedError: it has a policy that is missing, withdrawn or unreadable."""

    def find_keyset(self, keyset_id: str) -> StoredKeyset | None:
        """:raise RefusedError: as :meth:`find_secret`. :raise DecodeError: its member list is unreadable."""

    def add_launch(self, launch: Launch, *, limit: int) -> None:
        """Keep a launch; drop those whose time is over at ``launch.created_at``.

        :raise RefusedError: ``limit`` launches are in progress already.
        """

    def find_launch(self, launch_id: UUID, *, now: float) -> Launch | None:
        """A launch in progress whose time is not over."""

    def consume_launch(self, launch_id: UUID, *, now: float) -> bool:
        """Remove a launch. Of any number of callers at most one gets True, for ever."""

    def add_connections(self, connections: Sequence[Connection]) -> None:
        """Keep connections; all or none."""

    def find_connection(self, client_id: UUID) -> Connection | None:
        """A connection that was not withdrawn. :raise DecodeError: its row is unreadable."""


class Sealer(Protocol):
    """Keeps secrets unreadable at rest."""

    def seal(self, plaintext: SecretBytes, *, context: bytes) -> bytes:
        """Encrypt and bind to ``context``, which says what the secret belongs to."""

    def open(self, sealed: bytes, *, context: bytes) -> SecretBytes:
        """:raise VerificationError: sealed under another key, for another context, or changed."""


class Auditor(Protocol):
    """Takes down decisions."""

    def record(self, decision: Decision) -> None:
        """Called before the reply leaves: an auditor that raises stops the release."""
