# SPDX-License-Identifier: Apache-2.0
"""What the broker needs from outside, as small as it can be said."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from sealpod.kbs.core.audit import Decision, Entry
from sealpod.kbs.core.limits import Limits
from sealpod.kbs.core.records import (
    Change,
    Connection,
    Launch,
    StoredKeyset,
    StoredReportKey,
    StoredResource,
    StoredSecret,
)
from sealpod.secret import SecretBytes


class Records(Protocol):
    """What is released. Lookups give None for what is not there and raise for what cannot be told.

    Every method may raise ``OperationError`` or ``UnavailableError`` when the database fails.
    """

    def find_secret(self, secret_id: str) -> StoredSecret | None:
        """:raise RefusedError: it has a policy that is missing, withdrawn or unreadable."""

    def find_keyset(self, keyset_id: str) -> StoredKeyset | None:
        """:raise RefusedError: as :meth:`find_secret`. :raise DecodeError: its member list is unreadable."""

    def find_report_key(self, key_id: str) -> StoredReportKey | None:
        """:raise RefusedError: as :meth:`find_secret`."""

    def find_resource(self, kind: str) -> StoredResource | None:
        """The first resource of this type, with the policy of the same row.

        :raise RefusedError: as :meth:`find_secret`.
        """


class BrokerStore(Records, Protocol):
    """The broker's records, and the launches and connections of those who ask."""

    def find_launch(self, launch_id: UUID, *, now: float) -> Launch | None:
        """A launch in progress whose time is not over."""

    def find_connection(self, client_id: UUID) -> Connection | None:
        """A connection that was not withdrawn. :raise DecodeError: its row is unreadable."""

    def settle(self, change: Change, *, now: float, limits: Limits) -> Entry:
        """Write down a decision and what it changes, together or not at all, and on disk when this returns.

        Of any number of callers, here and in other replicas, at most one settles a change that spends a
        launch, for ever.

        :raise NotFoundError: ``launch.unknown``: the launch to spend is not there, or its time is over;
            ``connection.unknown``: the connection was revoked meanwhile.
        :raise RefusedError: ``launch.too-many``, ``connection.too-many``, ``connection.exhausted``.
        """


class ResourceFiles(Protocol):
    """The files that resources name."""

    def read(self, path: str) -> SecretBytes:
        """:raise SealpodError: it is not there, cannot be read, is too large, or lies elsewhere."""


class Sealer(Protocol):
    """Keeps secrets unreadable at rest."""

    def seal(self, plaintext: SecretBytes, *, context: bytes) -> bytes:
        """Encrypt and bind to ``context``, which says what the secret belongs to."""

    def open(self, sealed: bytes, *, context: bytes) -> SecretBytes:
        """:raise VerificationError: sealed under another key, for another context, or changed."""


class Auditor(Protocol):
    """Passes decisions on that are already written down: to a log, to who watches."""

    def record(self, decision: Decision, entry: Entry | None) -> None:
        """Called before the reply leaves: an auditor that raises stops the release.

        ``entry`` is the decision's place in the chain; None when it could not be written down, which only
        happens to a refusal.
        """
