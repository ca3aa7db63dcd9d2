# SPDX-License-Identifier: Apache-2.0
"""The guest's online client and the real broker, over a socket: what one sends, the other must understand."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from sealpod.errors import RefusedError, UnavailableError, VerificationError
from sealpod.kbc.table import open_kbc
from sealpod.kbs.core.audit import Decision
from sealpod.kbs.core.evidence import Evidence
from sealpod.kbs.core.limits import Limits
from sealpod.kbs.core.policy import Rule
from sealpod.kbs.core.records import Change, Connection
from sealpod.kbs.server.serve import RunningBroker, ServerConfig, serve
from sealpod.kbs.store.broker import SqlBrokerStore
from sealpod.kbs.store.database import open_database
from sealpod.kbs.store.policies import set_policy
from sealpod.kbs.store.secrets import set_secret
from sealpod.ocicrypt import keywrap
from sealpod.ocicrypt.options import PrivateOptions
from sealpod.ocicrypt.packet import AnnotationPacket
from sealpod.secret import SecretBytes
from sealpod.wire.secrettable import ONLINE_CONNECTION_GUID

pytestmark = pytest.mark.network

KEY = SecretBytes(bytes(range(32)))
CONNECTION_KEY = SecretBytes(bytes(range(32, 64)))
DIGEST = base64.b64encode(bytes(32)).decode()
OTHER_DIGEST = base64.b64encode(bytes(31) + b"\1").decode()


class Bench:
    """A broker with one guest's connection, and that guest's client."""

    def __init__(self, broker: RunningBroker, database: str) -> None:
        self.broker = broker
        self.client_id = uuid4()
        self.db = open_database(database)
        evidence = Evidence(3, 1, 40, 0, DIGEST, "a test")
        guest = Connection(self.client_id, CONNECTION_KEY, evidence)
        change = Change(Decision("GetSecret"), connections=(guest,))
        SqlBrokerStore(self.db).settle(change, now=time.time(), limits=Limits())

    def unwrap(
        self, kid: str, *, client_id: UUID | None = None, key: SecretBytes = CONNECTION_KEY
    ) -> SecretBytes:
        document = {
            "client_id": str(client_id or self.client_id),
            "key": base64.b64encode(key.reveal()).decode(),
        }

        def take(guid: UUID) -> SecretBytes:
            assert guid == ONLINE_CONNECTION_GUID
            return SecretBytes(json.dumps(document).encode())

        return open_kbc(f"online_sev_kbc::{self.broker.address}", take).unwrap(packet(kid))


def private_options() -> PrivateOptions:
    document = {
        "symkey": base64.b64encode(bytes(32)).decode(),
        "digest": f"sha256:{'0' * 64}",
        "cipheroptions": {"nonce": base64.b64encode(bytes(16)).decode()},
    }
    return PrivateOptions.decode(SecretBytes(json.dumps(document).encode()))


def packet(kid: str) -> AnnotationPacket:
    return keywrap.wrap(KEY, private_options(), kid, rng=bytes)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    database = f"sqlite:///{tmp_path}/kbs.db"
    with serve(ServerConfig("127.0.0.1:0", database)) as broker:
        bench = Bench(broker, database)
        yield bench
        bench.db.close()


def test_a_key_is_released(bench: Bench) -> None:
    set_secret(bench.db, "key_id1", KEY, policy=None)
    assert bench.unwrap("key_id1") == private_options().encode()


def test_a_policy_that_does_not_hold_is_a_refusal_with_upstreams_text(bench: Bench) -> None:
    set_policy(bench.db, "reference", Rule(allowed_digests=(OTHER_DIGEST,)))
    set_secret(bench.db, "key_id1", KEY, policy="reference")
    with pytest.raises(RefusedError) as caught:
        bench.unwrap("key_id1")
    assert "Policy validation failed: fw digest not valid" in caught.value.message
    assert caught.value.code != "kbc.refused"  # the broker's own code came through
    assert caught.value.remedy


def test_an_unknown_client_is_refused(bench: Bench) -> None:
    set_secret(bench.db, "key_id1", KEY, policy=None)
    with pytest.raises(RefusedError, match="Connection not found"):
        bench.unwrap("key_id1", client_id=uuid4())


def test_an_unknown_key_is_refused(bench: Bench) -> None:
    with pytest.raises(RefusedError, match="missing"):
        bench.unwrap("missing")


def test_another_connection_key_cannot_read_the_answer(bench: Bench) -> None:
    set_secret(bench.db, "key_id1", KEY, policy=None)
    with pytest.raises(VerificationError) as caught:
        bench.unwrap("key_id1", key=SecretBytes(bytes(32)))
    assert caught.value.code == "kbc.payload"


def test_a_broker_that_stopped(bench: Bench) -> None:
    bench.broker.stop(0)
    with pytest.raises(UnavailableError) as caught:
        bench.unwrap("key_id1")
    assert caught.value.code == "kbc.unreachable"
