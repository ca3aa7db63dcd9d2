# SPDX-License-Identifier: Apache-2.0
"""Several brokers as processes on one MariaDB, and some of them killed while launches go on.

Each launch is begun on one replica and finished on another. However it goes, a launch ends released once or
refused, what was released stands in the log, and the log is whole.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import grpc
import kbsload
import pytest
from databases import MariaDb, Missing, TestDatabase, running, server_database
from kbsload import BUNDLE_GUID, CONNECTION_GUID, Caller, LoadPlatform, Measured, Process, code_of

from sealpod.kbs.store.auditlog import read_entries
from sealpod.kbs.store.database import open_database
from sealpod.kbs.store.keks import KekSources
from sealpod.wire.pb import keybroker_pb2 as pb

LAUNCHES = 2000
WORKERS = 8
PLANTED = b"planted-secret-0123456789abcdef!"
BUNDLE = (BUNDLE_GUID, "json", "bundle", "KEYSET-1")
CONNECTION = (CONNECTION_GUID, "json", "connection", "")


@pytest.fixture(scope="module")
def platform() -> LoadPlatform:
    return LoadPlatform()


@pytest.fixture(scope="module")
def server() -> Iterator[MariaDb]:
    try:
        made = MariaDb()
    except Missing as missing:
        pytest.skip(str(missing))
    with running(made):
        yield made


@pytest.fixture
def database(server: MariaDb, tmp_path: Path) -> TestDatabase:
    made = server_database(server, tmp_path)
    sealpod(made, "kbs", "secret", "set", "key_id1", "--from-file", "-", stdin=PLANTED)
    sealpod(made, "kbs", "keyset", "set", "KEYSET-1", "--secret", "key_id1")
    return made


def sealpod(database: TestDatabase, *arguments: str, stdin: bytes = b"") -> str:
    done = subprocess.run(
        [sys.executable, "-m", "sealpod.cli.main", *arguments],
        input=stdin,
        capture_output=True,
        check=False,
        env={**os.environ, **database.environment},
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def start(database: TestDatabase, platform: LoadPlatform) -> Process:
    return kbsload.start(database.text, platform, environment=database.environment)


@dataclass
class Outcome:
    """How one launch ended for its host."""

    launch_id: str
    measured: Measured
    table: dict[str, bytes] | None = None
    codes: list[str] = field(default_factory=list)


class Fleet:
    """Replicas that come and go; a call that finds one gone goes to the next, as a load balancer would."""

    def __init__(self, database: TestDatabase, platform: LoadPlatform, size: int) -> None:
        self.database, self.platform = database, platform
        self._lock = threading.Lock()
        self._turn = count()
        self.members = [self._join() for _ in range(size)]

    def _join(self) -> tuple[Process, Caller]:
        process = start(self.database, self.platform)
        return process, Caller(process.address)

    def kill(self, index: int) -> None:
        process, _ = self.members[index]
        process.kill()

    def replace(self, index: int) -> None:
        fresh = self._join()
        with self._lock:
            self.members[index] = fresh

    def call(self, name: str, request: bytes, codes: list[str]) -> bytes | None:
        """The answer of the first replica that gives one."""
        for _ in range(6):
            with self._lock:
                _, caller = self.members[next(self._turn) % len(self.members)]
            try:
                return caller(name, request, timeout=15)
            except grpc.RpcError as error:
                codes.append(code_of(error))
                if codes[-1] not in ("UNAVAILABLE", "CANCELLED", "store.unavailable"):
                    return None
        return None

    def launch(self, number: int) -> Outcome | None:
        codes: list[str] = []
        reply = self.call("GetBundle", self.platform.bundle_request(), codes)
        if reply is None:
            return None
        bundle = pb.BundleResponse.FromString(reply)
        outcome = Outcome(bundle.LaunchId, self.platform.measured(bundle))
        asked = outcome.measured.secret_request(BUNDLE if number % 2 else CONNECTION)
        sealed = self.call("GetSecret", asked, outcome.codes)
        if sealed is not None:
            outcome.table = outcome.measured.open(sealed)
        return outcome

    def close(self) -> None:
        for process, caller in self.members:
            caller.channel.close()
            if process.popen.poll() is None:
                process.terminate()


@pytest.fixture
def fleet(database: TestDatabase, platform: LoadPlatform) -> Iterator[Fleet]:
    made = Fleet(database, platform, 3)
    yield made
    made.close()


def grants(database: TestDatabase) -> Counter[str]:
    """Releases in the log, by launch."""
    found: Counter[str] = Counter()
    with open_database(database.url, keks=KekSources(database.kek)) as db:
        for entry in read_entries(db.engine):
            record = entry.fields()
            if record["call"] == "GetSecret" and record["outcome"] == "granted":
                found[record["launch"]] += 1
    return found


def spellings(secret: bytes) -> tuple[bytes, ...]:
    text = base64.b64encode(secret)
    return secret, secret.hex().encode(), secret.hex().upper().encode(), text[: len(text) // 4 * 4 - 4]


def test_replicas_killed_under_load(fleet: Fleet, database: TestDatabase) -> None:
    done = count()
    first, second = threading.Event(), threading.Event()

    def one(number: int) -> Outcome | None:
        outcome = fleet.launch(number)
        reached = next(done)
        if reached == LAUNCHES // 4:
            first.set()
        if reached == LAUNCHES // 2:
            second.set()
        return outcome

    with ThreadPoolExecutor(WORKERS) as pool:
        futures = [pool.submit(one, number) for number in range(LAUNCHES)]
        assert first.wait(120)
        fleet.kill(0)
        fleet.replace(0)
        assert second.wait(120)
        fleet.kill(1)
        fleet.kill(2)
        fleet.replace(1)
        fleet.replace(2)
        outcomes = [future.result() for future in futures]
    launched = [one for one in outcomes if one is not None]
    released = [one for one in launched if one.table is not None]
    # The killing cost some launches, and only few.
    assert len(released) > LAUNCHES * 9 // 10
    assert len({one.launch_id for one in launched}) == len(launched)
    in_log = grants(database)
    assert set(in_log.values()) == {1}
    for one in launched:
        if one.table is None:
            assert one.codes, "refused without a reason"
        else:
            assert in_log[one.launch_id] == 1
    # A launch id is good for one secret, whichever replica is asked again.
    for one in released[:: len(released) // 50]:
        codes: list[str] = []
        assert fleet.call("GetSecret", one.measured.secret_request(), codes) is None
        assert codes == ["launch.unknown"]
    assert "records are whole" in sealpod(database, "kbs", "audit", "verify")
    _no_plaintext(database.dump(), released)


def _no_plaintext(dump: bytes, released: list[Outcome]) -> None:
    assert b"key_id1" in dump
    secrets = [PLANTED]
    for one in released[:200]:
        assert one.table is not None
        secrets += [one.measured.keys.tek.reveal(), one.measured.keys.tik.reveal()]
        if CONNECTION_GUID in one.table:
            secrets.append(base64.b64decode(json.loads(one.table[CONNECTION_GUID])["key"]))
        else:
            assert base64.b64encode(PLANTED) in one.table[BUNDLE_GUID]
    for secret in secrets:
        for spelling in spellings(secret):
            assert spelling not in dump


def test_replicas_racing_for_one_launch(fleet: Fleet, database: TestDatabase) -> None:
    def ask(process: int, measured: Measured, barrier: threading.Barrier) -> str:
        barrier.wait(timeout=30)
        try:
            fleet.members[process][1]("GetSecret", measured.secret_request(BUNDLE))
        except grpc.RpcError as error:
            return code_of(error)
        return "released"

    with ThreadPoolExecutor(6) as pool:
        for _ in range(30):
            codes: list[str] = []
            reply = fleet.call("GetBundle", fleet.platform.bundle_request(), codes)
            assert reply is not None, codes
            measured = fleet.platform.measured(pb.BundleResponse.FromString(reply))
            barrier = threading.Barrier(6)
            racing = [pool.submit(ask, number % 3, measured, barrier) for number in range(6)]
            ends = Counter(one.result() for one in racing)
            assert ends == {"released": 1, "launch.unknown": 5}
    assert set(grants(database).values()) == {1}


def test_the_database_killed_and_restarted_under_load(
    server: MariaDb, fleet: Fleet, database: TestDatabase
) -> None:
    launches, done = 300, count()
    third = threading.Event()

    def one(number: int) -> Outcome | None:
        outcome = fleet.launch(number)
        if next(done) == launches // 3:
            third.set()
        return outcome

    with ThreadPoolExecutor(WORKERS) as pool:
        futures = [pool.submit(one, number) for number in range(launches)]
        assert third.wait(120)
        server.kill()
        server.start()
        outcomes = [future.result() for future in futures]
    released = [one for one in outcomes if one is not None and one.table is not None]
    in_log = grants(database)
    assert set(in_log.values()) == {1}
    for outcome in released:
        assert in_log[outcome.launch_id] == 1
    # Brokers are the same processes as before, and go on.
    assert all(process.popen.poll() is None for process, _ in fleet.members)
    for number in range(20):
        after = fleet.launch(number)
        assert after is not None
        assert after.table, after.codes
    assert "records are whole" in sealpod(database, "kbs", "audit", "verify")
