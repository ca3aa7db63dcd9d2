# SPDX-License-Identifier: Apache-2.0
"""Decisions as log lines: one line each, at the logger ``sealpod.kbs.audit``."""

from __future__ import annotations

import logging

from sealpod.kbs.core.audit import Decision

_logger = logging.getLogger("sealpod.kbs.audit")


class LogAuditor:
    """An :class:`~sealpod.kbs.core.ports.Auditor` that logs; refusals and failures as warnings."""

    def record(self, decision: Decision) -> None:
        level = logging.INFO if decision.outcome == "granted" else logging.WARNING
        _logger.log(level, "%s", decision.line())
