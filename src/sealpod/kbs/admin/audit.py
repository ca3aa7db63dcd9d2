# SPDX-License-Identifier: Apache-2.0
"""What the key owner does, in the same log as what the broker decides.

Each call has one record. A change is in one transaction with the record that grants it, and a value is shown
once its record is on disk: nothing happens that was not written down. What is refused is recorded as that.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from sealpod.errors import SealpodError
from sealpod.kbs.core.audit import MAX_LABEL, Caller, Decision, Entry, timestamp
from sealpod.kbs.core.deciding import refuse
from sealpod.kbs.core.limits import Limits
from sealpod.kbs.core.ports import Auditor
from sealpod.kbs.core.records import Change
from sealpod.kbs.store.broker import SqlBrokerStore
from sealpod.kbs.store.database import Database, Transaction

_T = TypeVar("_T")


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

    store: SqlBrokerStore
    auditor: Auditor
    clock: Callable[[], float]
    limits: Limits

    @contextmanager
    def changing(self, call: str, caller: Caller, *labels: str) -> Iterator[Transaction]:
        """What to make a change in, of what ``labels`` name (``noun:id``): it ends with the record.

        :raise SealpodError: as the block, or it could not be written down: nothing was changed.
        """
        decision = self._decision(call, caller, labels)
        entries: list[Entry] = []
        try:
            yield lambda: self.store.changing(decision, entries.append)
            if not entries:  # There was nothing to change.
                entries.append(self._settle(decision))
        except Exception as error:
            if not entries:
                self._refuse(decision, error)
            raise
        self.auditor.record(decision, entries[0])

    def revealing(self, caller: Caller, label: str, read: Callable[[], _T]) -> _T:
        """What ``read`` gives of what ``label`` names, once it is written down that it was shown.

        :raise SealpodError: as ``read``, or it could not be written down.
        """
        decision = self._decision("AdminReveal", caller, (label,))
        try:
            found = read()
            entry = self._settle(decision)
        except Exception as error:
            self._refuse(decision, error)
            raise
        self.auditor.record(decision, entry)
        return found

    def _decision(self, call: str, caller: Caller, labels: tuple[str, ...]) -> Decision:
        return Decision(
            call,
            outcome="granted",
            request=caller.request,
            time=timestamp(self.clock()),
            peer=caller.peer,
            identity=caller.identity,
            secrets=labels,
        )

    def _settle(self, decision: Decision) -> Entry:
        return self.store.settle(Change(decision), now=self.clock(), limits=self.limits)

    def _refuse(self, decision: Decision, error: Exception) -> None:
        # An id that was refused may be of any length.
        decision.secrets = tuple(one[:MAX_LABEL] for one in decision.secrets)
        refuse(decision, error, timestamp(self.clock()))
        entry = None
        with suppress(SealpodError):  # Nothing was changed or shown: the refusal stands without its record.
            entry = self._settle(decision)
        self.auditor.record(decision, entry)
