# SPDX-License-Identifier: Apache-2.0
"""Callers wait together for the disk.

A commit waits for it, and the log's head is locked meanwhile (:mod:`.audit`). Callers that arrive in that
time are settled together in the next transaction (group commit): who gets the lock settles everybody's
changes that wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from sqlalchemy import Connection, Engine

from sealpod.errors import SealpodError, UnavailableError
from sealpod.kbs.core import records
from sealpod.kbs.core.audit import Decision, Entry
from sealpod.kbs.core.limits import Limits
from sealpod.kbs.core.records import Change
from sealpod.kbs.store.audit import Ledger, Row, Ticket

MAX_BATCH: Final = 128
"""Changes in one transaction: as many as a replica's threads may wait with, and a bound for its length."""


class Settler:
    """Settles changes; safe to use from several threads, and beside others on the same database."""

    def __init__(self, engine: Engine, connection_row: Callable[[records.Connection], Row]) -> None:
        """As :class:`.Ledger`."""
        self._ledger = Ledger(engine, connection_row)
        self._waiting: list[Ticket] = []
        self._queue_lock = threading.Lock()
        self._commit_lock = threading.Lock()

    @property
    def breaks(self) -> int:
        """See :class:`.Pinned`."""
        return self._ledger.pinned.breaks

    def settle(self, change: Change, *, now: float, limits: Limits) -> Entry:
        """See :class:`sealpod.kbs.core.ports.BrokerStore`."""
        ticket = Ticket(change, change.decision.record(), now, limits)
        with self._queue_lock:
            self._waiting.append(ticket)
        with self._commit_lock:
            # While this thread waited for the lock, its holder may have settled the change with its own.
            while not ticket.settled:
                self._settle_all(self._next())
        if ticket.error is not None:
            raise ticket.error
        if ticket.entry is None:
            raise UnavailableError("the decision was not written down", code="store.unavailable")
        return ticket.entry

    @contextmanager
    def changing(self, decision: Decision, placed: Callable[[Entry], None]) -> Iterator[Connection]:
        """See :meth:`.Ledger.changing`."""
        with self._commit_lock, self._ledger.changing(decision.record(), placed) as connection:
            yield connection

    def _next(self) -> list[Ticket]:
        with self._queue_lock:
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        return batch

    def _settle_all(self, batch: list[Ticket]) -> None:
        try:
            self._ledger.write(batch)
        except SealpodError as error:
            if len(batch) == 1 or isinstance(error, UnavailableError):
                _fail(batch, error)
                return
            # One of them cannot be written; that must not be the others' fate.
            for ticket in batch:
                self._settle_all([ticket])
        except BaseException as error:
            _fail(batch, error)
            raise


def _fail(batch: Sequence[Ticket], error: BaseException) -> None:
    for ticket in batch:
        # Each caller raises it in a thread of its own, and an exception has one traceback only.
        ticket.error = _twin(error) if isinstance(error, SealpodError) else error


def _twin(error: SealpodError) -> SealpodError:
    return type(error)(error.message, code=error.code, remedy=error.remedy)
