# SPDX-License-Identifier: Apache-2.0
"""Which calls are let in: tokens, places, and what counts as one peer."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import UnavailableError
from sealpod.kbs.server.admission import Admission, Buckets, peer_host, peer_key
from sealpod.kbs.server.config import ConnectionLimits, RateLimit


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:192.0.2.1:4000", "192.0.2.1"),
        ("ipv6:%5B::1%5D:4000", "::1"),
        ("ipv6:[2001:db8::1]:4000", "2001:db8::1"),
        ("ipv6:[fe80::1%eth0]:4000", "fe80::1"),
        ("unix:/run/x", "unix:/run/x"),
    ],
)
def test_peers_names(peer: str, host: str) -> None:
    assert peer_host(peer) == host


def test_what_counts_as_one_peer() -> None:
    assert peer_key("192.0.2.1") == "192.0.2.1"
    assert peer_key("::ffff:192.0.2.1") == "192.0.2.1"
    assert peer_key("2001:db8:1:2:3:4:5:6") == peer_key("2001:db8:1:2::ffff") == "2001:db8:1:2::/64"
    assert peer_key("2001:db8:1:3::1") != peer_key("2001:db8:1:2::1")
    assert peer_key("127.0.0.1") is peer_key("::1") is peer_key("::ffff:127.0.0.1") is None


@given(
    rate=st.floats(0.1, 100),
    burst=st.integers(1, 20),
    waits=st.lists(st.floats(0, 5), max_size=60),
)
def test_no_peer_gets_more_than_its_burst_and_rate(rate: float, burst: int, waits: list[float]) -> None:
    clock = Clock()
    buckets = Buckets(RateLimit(rate, burst), clock)
    begin, taken = clock.now, 0
    for wait in waits:
        clock.now += wait
        taken += buckets.take("peer")
        assert taken <= burst + rate * (clock.now - begin) + 1e-6


def test_a_quiet_peer_has_its_burst_again_and_others_are_apart() -> None:
    clock = Clock()
    buckets = Buckets(RateLimit(1.0, 3), clock)
    assert [buckets.take("a") for _ in range(4)] == [True, True, True, False]
    assert buckets.take("b")
    clock.now += 1.0
    assert [buckets.take("a") for _ in range(2)] == [True, False]
    clock.now += 1000.0
    assert [buckets.take("a") for _ in range(4)] == [True, True, True, False]


def test_a_clock_that_goes_back_gives_nothing() -> None:
    clock = Clock()
    buckets = Buckets(RateLimit(1.0, 1), clock)
    assert buckets.take("a")
    clock.now -= 50.0
    assert not buckets.take("a")


def test_no_limit() -> None:
    buckets = Buckets(RateLimit(0.0, 1), Clock())
    assert all(buckets.take("a") for _ in range(100))
    assert len(buckets) == 0


def test_the_table_of_peers_is_bounded() -> None:
    buckets = Buckets(RateLimit(1.0, 1), Clock(), peers=100)
    for number in range(10_000):
        buckets.take(f"peer{number}")
    assert len(buckets) == 100
    assert not buckets.take("peer9999")  # the newest are remembered


def test_places_are_given_back_whatever_happens() -> None:
    admission = Admission(RateLimit(), ConnectionLimits(calls=3, calls_per_peer=2), Clock())
    with ExitStack() as stack:
        stack.enter_context(admission.admitted("192.0.2.1"))
        stack.enter_context(admission.admitted("192.0.2.1"))
        with pytest.raises(UnavailableError) as caught, admission.admitted("192.0.2.1"):
            pass
        assert caught.value.code == "kbs.busy"
        third = stack.enter_context(ExitStack())
        third.enter_context(admission.admitted("192.0.2.2"))
        with pytest.raises(UnavailableError), admission.admitted("127.0.0.1"):
            pass  # three are in: all places are taken
        third.close()
        with admission.admitted("127.0.0.1"):
            assert admission.calls == 3
    with pytest.raises(ZeroDivisionError), admission.admitted("192.0.2.1"):
        raise ZeroDivisionError
    assert admission.calls == 0
    assert not admission._held  # nothing is kept of peers that hold nothing


def test_loopback_is_counted_only_when_asked() -> None:
    free = Admission(RateLimit(0.001, 1), ConnectionLimits(), Clock())
    bound = Admission(RateLimit(0.001, 1, loopback=True), ConnectionLimits(), Clock())
    for _ in range(3):
        with free.admitted("127.0.0.1"):
            pass
    with bound.admitted("::1"):
        pass
    with pytest.raises(UnavailableError) as caught, bound.admitted("127.0.0.1"):
        pass
    assert caught.value.code == "kbs.rate-limit"
