# SPDX-License-Identifier: Apache-2.0
"""Attacks that simple-kbs' list does not have: what a stranger costs, and what a writer of the database gets.

On every database. The stranger knows addresses, key ids and certificate chains, which are no secrets; the
writer has the database, and neither its key-encryption key nor the broker.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest

from sealpod.kbs.store.broker import SqlBrokerStore

GUID = "e6f5a162-d67f-4750-a67c-5d065f2a9910"


def many(kind: str, name: str) -> list[tuple[str, str, str, str]]:
    """As many requests as a call may have, all for the same."""
    return [(str(uuid4()), "binary", kind, name) for _ in range(64)]


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the database was asked for what is released, by name of the lookup."""
    counts: Counter[str] = Counter()

    def counted(name: str) -> Any:
        real = getattr(SqlBrokerStore, name)

        def find(store: SqlBrokerStore, key: str) -> Any:
            counts[name] += 1
            return real(store, key)

        return find

    for name in ("find_secret", "find_keyset", "find_report_key", "find_resource"):
        monkeypatch.setattr(SqlBrokerStore, name, counted(name))
    return counts


def test_a_stranger_without_a_launch_costs_no_lookups(host: Any, looked_up: Counter[str]) -> None:
    """Each request could be a keyset of a hundred keys to look up and open, for a caller who gets nothing."""
    claim = {**host.launch().claim, "launch_id": str(uuid4())}
    assert host.client.refusal(host.client.secret, *many("bundle", "KEYSET-1"), **claim).code == (
        "launch.unknown"
    )
    assert not looked_up


@pytest.mark.parametrize("kind", ["key", "bundle", "report", "resource"])
def test_asking_for_the_same_often_is_not_often_the_work(
    host: Any, looked_up: Counter[str], kind: str
) -> None:
    connection = host.connect()
    name = {"key": "key_id1", "bundle": "KEYSET-1"}.get(kind, "nobody's")
    attempts = (
        lambda: host.client.secret(*many(kind, name), **host.launch().claim),
        lambda: host.client.online(connection["client_id"], *many(kind, name)),
    )
    for attempt in attempts:
        looked_up.clear()
        with suppress(host.client.Refused):  # not all of it is there, and not all of it has room
            attempt()
        assert looked_up
        assert set(looked_up.values()) == {1}
