# SPDX-License-Identifier: Apache-2.0
"""What the key owner does, in the same log as what the broker decides.

A change, and a value shown, are written down before they happen: nothing happens that could not be. What then
fails has a second record, under the same number of the request.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sealpod.errors import SealpodError
from sealpod.kbs.core.audit import Caller, Decision, Entry, Outcome, timestamp
from sealpod.kbs.core.limits import Limits
from sealpod.kbs.core.ports import Auditor, BrokerStore
from sealpod.kbs.core.records import Change
from sealpod.kbs.store.broker import SqlBrokerStore
from sealpod.kbs.store.database import Database


class _Quiet:
    """Tells nobody further: the command's user sees what was done."""

    def record(self, decision: Decision, entry: Entry | None) -> None:
        pass


def command_log(db: Database) -> tuple[AdminLog, Caller]:
    """The log for a command that works on the database itself, and who runs it."""
    return AdminLog(SqlBrokerStore(db), _Quiet(), time.time, Limits()), Caller(
        "local", f"uid:{os.getuid()}", uuid.uuid4().hex
    )


@dataclass(frozen=True, slots=True)
class AdminLog:
    """Writes records; ``clock`` gives seconds since the epoch."""

    store: BrokerStore
    auditor: Auditor
    clock: Callable[[], float]
    limits: Limits

    @contextmanager
    def recorded(self, call: str, caller: Caller, *labels: str) -> Iterator[None]:
        """Write down that ``call`` is done to what ``labels`` name (``noun:id``), then run the block.

        :raise SealpodError: it could not be written down, and the block has not run.
        """
        self._write(call, caller, labels, "granted")
        try:
            yield
        except SealpodError as error:
            self._write(call, caller, labels, "refused", error.code, error.message)
            raise
        except Exception as error:
            self._write(call, caller, labels, "failed", "internal.error", type(error).__name__)
            raise

    def refused(self, call: str, caller: Caller, error: SealpodError, *labels: str) -> None:
        """Write down that something was refused before it began."""
        self._write(call, caller, labels, "refused", error.code, error.message)

    def _write(
        self,
        call: str,
        caller: Caller,
        labels: tuple[str, ...],
        outcome: Outcome,
        code: str = "",
        reason: str = "",
    ) -> None:
        now = self.clock()
        decision = Decision(
            call,
            outcome=outcome,
            code=code,
            request=caller.request,
            time=timestamp(now),
            peer=caller.peer,
            identity=caller.identity,
            secrets=labels,
            reason=reason,
        )
        entry = self.store.settle(Change(decision), now=now, limits=self.limits)
        self.auditor.record(decision, entry)
