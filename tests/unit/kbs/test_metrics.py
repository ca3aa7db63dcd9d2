# SPDX-License-Identifier: Apache-2.0
"""The broker's numbers: what is counted, and that no caller can make them grow."""

from __future__ import annotations

import math

import pytest

from sealpod.kbs.core.audit import Decision, Entry
from sealpod.kbs.server.audit import CountingAuditor
from sealpod.kbs.server.metrics import MAX_CODES, Metrics


def lines(metrics: Metrics) -> list[str]:
    return metrics.render().decode().splitlines()


def test_decisions_are_counted_and_passed_on() -> None:
    metrics, passed = Metrics(), []

    class Next:
        def record(self, decision: Decision, entry: Entry | None) -> None:
            passed.append((decision.call, entry))

    auditor = CountingAuditor(Next(), metrics)
    auditor.record(Decision("GetBundle", outcome="granted"), None)
    auditor.record(Decision("GetBundle", outcome="refused", code="chain.pdh"), None)
    assert passed == [("GetBundle", None)] * 2
    assert 'sealpod_kbs_decisions_total{call="GetBundle",code="chain.pdh",outcome="refused"} 1.0' in lines(
        metrics
    )


def test_codes_are_bounded() -> None:
    metrics = Metrics()
    for number in range(MAX_CODES + 500):
        metrics.decision("GetBundle", "refused", f"code.{number}")
    found = [line for line in lines(metrics) if line.startswith("sealpod_kbs_decisions_total{")]
    assert len(found) == MAX_CODES + 1
    assert 'sealpod_kbs_decisions_total{call="GetBundle",code="other",outcome="refused"} 500.0' in found


def test_methods_are_bounded() -> None:
    metrics = Metrics()
    for method in ("GET", "BREW", "X" * 100):
        metrics.admin_request(method, 200)
    found = [line for line in lines(metrics) if line.startswith("sealpod_kbs_admin_requests_total{")]
    assert sorted(found) == [
        'sealpod_kbs_admin_requests_total{method="GET",status="200"} 1.0',
        'sealpod_kbs_admin_requests_total{method="other",status="200"} 2.0',
    ]


def test_time_is_taken_of_calls_that_fail_too() -> None:
    metrics = Metrics()
    with pytest.raises(ZeroDivisionError), metrics.timed("GetSecret"):
        raise ZeroDivisionError
    assert 'sealpod_kbs_call_seconds_count{call="GetSecret"} 1.0' in lines(metrics)


def test_gauges_are_asked_when_somebody_looks() -> None:
    metrics = Metrics()
    values = iter([1.0, math.nan])
    metrics.gauge("things", "Things", lambda: next(values))
    assert "sealpod_kbs_things 1.0" in lines(metrics)
    assert "sealpod_kbs_things NaN" in lines(metrics)
