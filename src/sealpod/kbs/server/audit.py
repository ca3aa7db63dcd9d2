# SPDX-License-Identifier: Apache-2.0
"""Decisions as log lines: one line each, at the logger ``sealpod.kbs.audit``; and counted."""

from __future__ import annotations

import logging

from sealpod.kbs.core.audit import Decision, Entry
from sealpod.kbs.core.ports import Auditor
from sealpod.kbs.server.metrics import Metrics

_logger = logging.getLogger("sealpod.kbs.audit")


class LogAuditor:
    """An :class:`~sealpod.kbs.core.ports.Auditor` that logs; refusals and failures as warnings."""

    def record(self, decision: Decision, entry: Entry | None = None) -> None:
        level = logging.INFO if decision.outcome == "granted" else logging.WARNING
        if not _logger.isEnabledFor(level):
            return
        if entry is None:
            _logger.log(level, "%s", decision.line())
        else:
            # The number and hash in a log kept elsewhere show later whether the database's log is whole.
            _logger.log(level, "number=%d hash=%s %s", entry.number, entry.hash, decision.line())


class CountingAuditor:
    """Counts decisions, and passes them on."""

    def __init__(self, auditor: Auditor, metrics: Metrics) -> None:
        self._auditor = auditor
        self._metrics = metrics

    def record(self, decision: Decision, *entry: Entry | None) -> None:
        self._metrics.decision(decision.call, decision.outcome, decision.code)
        self._auditor.record(decision, *entry)
