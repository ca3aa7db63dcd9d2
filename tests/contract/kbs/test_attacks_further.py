# SPDX-License-Identifier: Apache-2.0
"""Attacks that simple-kbs' list does not have: what a stranger costs, and what a writer of the database gets.

On every database. The stranger knows addresses, key ids and certificate chains, which are no secrets; the
writer has the database, and neither its key-encryption key nor the broker.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest
from databases import TestDatabase

from sealpod.kbs.core.limits import Limits
from sealpod.kbs.store import census, connections
from sealpod.kbs.store.broker import SqlBrokerStore
from sealpod.kbs.store.database import Database, open_database
from sealpod.kbs.store.keks import KekSources

GUID = "e6f5a162-d67f-4750-a67c-5d065f2a9910"
KEY = (GUID, "binary", "key", "key_id1")
BUNDLE = (GUID, "json", "bundle", "KEYSET-1")
KEY_B64 = "RcHGava52DPvj1uoIk/NVDYlwxi0A6yyIZ8ilhEX3X4="
DIGEST, OTHER_DIGEST = (
    base64.b64encode(hashlib.sha256(name).digest()).decode()
    for name in (b"sev-test-vector firmware", b"another guest")
)
OTHER_ARK = "a" * 64
END = 4e9
"""Seconds since the epoch; of the year 2096."""


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


@pytest.fixture
def small_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chip's share of eight places is one, once four of them are taken."""
    monkeypatch.setattr(census, "LEAST_SHARE", 1)


def two_platforms(host: Any, replica: Any, owner: Any, **limits: int) -> tuple[Any, Any]:
    """Hosts of two chips at one broker."""
    owner("DELETE FROM sealpod_launches", "DELETE FROM sealpod_connections", "DELETE FROM conn_bundle")
    other = type(host.platform)("another chip")
    there = replica(trust_arks=(host.platform.fingerprint, other.fingerprint), limits=Limits(**limits))
    return there, type(host)(other, there.client)


@pytest.mark.usefixtures("small_share")
def test_one_platform_that_takes_all_places_for_launches(host: Any, replica: Any, owner: Any) -> None:
    """Well within its rate: 50 bundles a second are 30000 in the time that a launch has."""
    greedy, other = two_platforms(host, replica, owner, max_launches=8)
    begun = [greedy.launch() for _ in range(4)]
    refused = host.client.refusal(greedy.launch)
    assert refused.code == "launch.too-many"
    assert refused.text.endswith("4 launches are in progress on this platform alone")
    launched = other.launch()
    assert launched.open(other.client.secret(BUNDLE, **launched.claim))
    assert begun[0].open(greedy.client.secret(BUNDLE, **begun[0].claim))


@pytest.mark.usefixtures("small_share")
def test_one_platform_that_takes_all_places_for_connections(host: Any, replica: Any, owner: Any) -> None:
    """They last for a month, and one launch may ask for many at once."""
    greedy, other = two_platforms(host, replica, owner, max_connections=8)
    many_of_one = [(str(uuid4()), "", "connection", "") for _ in range(3)]
    launched = greedy.launch()
    assert len(launched.open(greedy.client.secret(*many_of_one, **launched.claim))) == 3
    launched = greedy.launch()
    refused = host.client.refusal(greedy.client.secret, *many_of_one, **launched.claim)
    assert refused.code == "connection.too-many"
    assert "on this platform alone" in refused.text
    assert greedy.client.fetch(greedy.connect(), KEY)
    assert other.client.fetch(other.connect(), KEY)


FORGED = "11111111-1111-4111-8111-111111111111"


def test_a_connection_of_the_writers_own(host: Any, owner: Any, replica: Any) -> None:
    """With a key that he knows, and the launch that the policy wants: no platform would be needed at all."""
    client = replica(sealed_connections=True).client
    owner(
        f"""REPLACE INTO policy VALUES (50,'["{DIGEST}"]','[3]',0,0,'[]',NULL,NULL,1)""",
        "UPDATE secrets SET polid=50",
        f"INSERT INTO conn_bundle VALUES ('{FORGED}',NULL,3,0,24,15,'','{DIGEST}','{KEY_B64}',NULL,NULL)",
    )
    assert host.client.refusal(client.online, FORGED, KEY).code == "connection.plain"
    # Nor with the row of ours that says which platform it is on.
    ark = host.platform.fingerprint
    owner(f"INSERT INTO sealpod_connections VALUES ('{FORGED}','model','{ark}','','',{END},0)")
    assert host.client.refusal(client.online, FORGED, KEY).code == "connection.plain"
    assert client.fetch(host.connect(), KEY)
    owner(f"DELETE FROM conn_bundle WHERE id='{FORGED}'", "DELETE FROM sealpod_connections")


@pytest.mark.parametrize(
    ("changed", "free"),
    [
        ("UPDATE conn_bundle SET fw_digest='{digest}'", False),
        ("UPDATE conn_bundle SET policy=7", False),
        ("UPDATE conn_bundle SET fw_api_major=9", False),
        ("UPDATE conn_bundle SET fw_api_minor=99", False),
        ("UPDATE conn_bundle SET fw_build_id=99", False),
        ("UPDATE sealpod_connections SET ark='{ark}'", False),
        ("UPDATE sealpod_connections SET root='AMD Milan'", False),
        ("UPDATE sealpod_connections SET chip='{ark}'", False),
        ("UPDATE sealpod_connections SET chain='{ark}'", False),
        ("UPDATE sealpod_connections SET created_at=created_at+86400", False),
        ("UPDATE sealpod_connections SET root=NULL, ark=NULL, chain=NULL, chip=NULL", False),
        ("DELETE FROM sealpod_connections", False),
        ("UPDATE conn_bundle SET launch_description='more'", True),
        ("UPDATE sealpod_connections SET messages=messages+1", True),
    ],
)
def test_a_connection_made_to_stand_for_another_guest(
    host: Any, owner: Any, replica: Any, changed: str, free: bool
) -> None:
    """Of a guest without a policy's blessing, on a root that is not trusted any more, or past its time."""
    connection = host.connect()
    other = replica(trust_arks=(host.platform.fingerprint, OTHER_ARK))
    owner(changed.format(digest=OTHER_DIGEST, ark=OTHER_ARK))
    if free:
        assert other.client.fetch(connection, KEY)
    else:
        assert host.client.refusal(other.client.online, connection["client_id"], KEY).code == "seal.broken"
    owner("DELETE FROM sealpod_connections", "DELETE FROM conn_bundle")


@pytest.mark.parametrize(
    "changed",
    [
        "expires_at=expires_at+86400",
        "root='AMD Milan'",
        "ark='{ark}'",
        "chain='{ark}'",
        "chip='{ark}'",
        "policy=7",
    ],
)
def test_a_launch_made_another(host: Any, owner: Any, replica: Any, changed: str) -> None:
    """More time, another platform or policy; the record of the release would say what was never verified."""
    launched = host.launch()
    other = replica(trust_arks=(host.platform.fingerprint, OTHER_ARK))
    owner(f"UPDATE sealpod_launches SET {changed.format(ark=OTHER_ARK)}")
    policy = 7 if "policy" in changed else 3
    refused = host.client.refusal(other.client.secret, BUNDLE, **launched.claim, policy=policy)
    assert refused.code == "launch.unknown"


def test_a_spent_launch_put_back(host: Any, owner: Any) -> None:
    """As it was: it ends when it would have ended, and its secrets are sealed for the same guest again."""
    owner("DELETE FROM sealpod_launches")
    launched = host.launch()
    owner("CREATE TABLE kept AS SELECT * FROM sealpod_launches")
    assert launched.open(host.client.secret(BUNDLE, **launched.claim))
    owner("UPDATE kept SET expires_at=expires_at+86400", "INSERT INTO sealpod_launches SELECT * FROM kept")
    assert host.client.refusal(host.client.secret, BUNDLE, **launched.claim).code == "launch.unknown"
    owner("DROP TABLE kept")


ANOTHER = (GUID, "", "connection", "")


@pytest.mark.parametrize("end", [connections.revoke_connection, connections.delete_connection])
def test_a_connection_that_outlives_its_revocation(
    host: Any, database: TestDatabase, end: Callable[[Database, str], None]
) -> None:
    """A guest's second and third, of which nobody thinks when one of them is taken away."""
    first, other = host.connect(), host.connect()
    second = json.loads(host.client.fetch(first, ANOTHER)[GUID])
    third = json.loads(host.client.fetch(second, ANOTHER)[GUID])
    assert host.client.fetch(third, KEY)
    with open_database(database.url, keks=KekSources(database.kek)) as db:
        end(db, second["client_id"])
    for one in (first, second, third):
        assert host.client.refusal(host.client.online, one["client_id"], KEY).code == "connection.unknown"
    assert host.client.fetch(other, KEY)


def test_a_connection_that_outlives_its_time(host: Any, database: TestDatabase, owner: Any) -> None:
    """Each further one would have all of the time again."""
    owner("DELETE FROM sealpod_connections", "DELETE FROM conn_bundle")
    first = host.connect()
    second = json.loads(host.client.fetch(first, ANOTHER)[GUID])
    assert host.client.fetch(second, KEY)
    began = [moment for (moment,) in database.query("SELECT created_at FROM sealpod_connections")]
    assert len(began) == 2
    assert len(set(began)) == 1
