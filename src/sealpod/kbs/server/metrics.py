# SPDX-License-Identifier: Apache-2.0
"""The broker's numbers, in Prometheus' text form.

No label comes from a caller: calls, outcomes and error codes are ours and few, and peers, ids and digests
are not labels at all. Each broker has a registry of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MAX_CODES: Final = 200
"""Different error codes shown; the documents list fewer. More would be a bug, and is counted as ``other``."""
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds. A call is some milliseconds; at ten seconds its caller gives up."""
PREFIX: Final = "sealpod_kbs"


class Metrics:
    """Counters and gauges; those with a function are asked when somebody looks."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._codes: set[str] = set()
        self._decisions = Counter(
            f"{PREFIX}_decisions",
            "Decisions, by call, outcome and the code of the rule or step that refused",
            ("call", "outcome", "code"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            f"{PREFIX}_call_seconds",
            "Time from a call's headers to its answer",
            ("call",),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._turned_away = Counter(
            f"{PREFIX}_turned_away",
            "Calls that were not looked at: busy, rate-limit, slow",
            ("reason",),
            registry=self.registry,
        )
        self._admin = Counter(
            f"{PREFIX}_admin_requests",
            "Requests of the admin API, by method and status",
            ("method", "status"),
            registry=self.registry,
        )

    def decision(self, call: str, outcome: str, code: str) -> None:
        """One decision more."""
        if code not in self._codes:
            if len(self._codes) >= MAX_CODES:
                code = "other"
            self._codes.add(code)
        self._decisions.labels(call, outcome, code).inc()

    def turned_away(self, reason: str) -> None:
        """One call more that was not looked at."""
        self._turned_away.labels(reason).inc()

    def admin_request(self, method: str, status: int) -> None:
        """One request of the admin API more."""
        self._admin.labels(method if method in _METHODS else "other", str(status)).inc()

    @contextmanager
    def timed(self, call: str) -> Iterator[None]:
        """Take the time of a call."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds.labels(call).observe(time.perf_counter() - start)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A number that is asked for when somebody looks."""
        Gauge(f"{PREFIX}_{name}", text, registry=self.registry).set_function(value)

    def render(self) -> bytes:
        """All numbers as of now."""
        return generate_latest(self.registry)


_METHODS: Final = frozenset({"GET", "PUT", "POST", "DELETE"})
