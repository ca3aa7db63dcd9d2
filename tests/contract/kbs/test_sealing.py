# SPDX-License-Identifier: Apache-2.0
"""Keys of records: what old tools wrote in plain, a change of keys while the broker serves, a key gone.

On every database, with the broker running; the rows are the database's own.
"""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from databases import TestDatabase

from sealpod.errors import UsageError, VerificationError
from sealpod.kbs.core.sealing import kek_id
from sealpod.kbs.server import ServerConfig, serve
from sealpod.kbs.store import doctor, policies, reports, sealed, secrets
from sealpod.kbs.store.database import open_database
from sealpod.kbs.store.engine import connect_engine
from sealpod.kbs.store.keks import KekSources
from sealpod.kbs.store.sealed import rewrap, seal_plain
from sealpod.kbs.store.survey import survey
from sealpod.secret import SecretBytes

GUID = "2cf13667-ea72-4013-9dd6-155e89c5a28f"
CONNECTION_GUID = "1ee27366-0c87-43a6-af48-28543eaf7cb0"
OLD, NEW = (bytes([number]) * 32 for number in (1, 2))
OLD_ID, NEW_ID = (kek_id(SecretBytes(key)) for key in (OLD, NEW))
PLAIN = [f"plain-{number:03}-{'p' * 20}".encode() for number in range(20)]


@pytest.fixture
def kek(tmp_path: Path) -> Path:
    return write_keys(tmp_path / "kek", OLD)


def write_keys(path: Path, *keys: bytes) -> Path:
    """Exchanged as an operator does: the whole file at once."""
    new = path.with_suffix(".new")
    new.write_bytes(b"".join(base64.b64encode(key) + b"\n" for key in keys))
    new.chmod(0o600)
    os.replace(new, path)
    return path


@pytest.fixture
def clean(database: TestDatabase) -> Iterator[TestDatabase]:
    if database.kind == "sqlite":
        Path(f"{database.url.database}.kek").unlink(missing_ok=True)
    yield database
    database.empty()


def sources(path: Path) -> KekSources:
    return KekSources(f"file:{path}")


def plain_rows() -> list[str]:
    texts = [base64.b64encode(value).decode() for value in PLAIN]
    return [
        f"REPLACE INTO secrets VALUES ({100 + number},'plain{number}','{text}',NULL)"
        for number, text in enumerate(texts)
    ]


def test_plain_rows_are_read_told_and_sealed(clean: TestDatabase, kek: Path) -> None:
    with open_database(clean.url, keks=sources(kek)) as db:
        clean.sql(*plain_rows())
        assert secrets.reveal_secret(db, "plain3").reveal() == base64.b64encode(PLAIN[3])
        assert survey(db.engine).plain == {"secret": 20}
        found = {one.check: one for one in doctor.examine(db.engine, sources(kek))}
        assert found["plain"].level == "warning"
        assert "20 in plain" in found["plain"].text
        assert dict(seal_plain(db).written) == {"secret": 20}
        assert survey(db.engine).plain == {}
        assert survey(db.engine).under == {OLD_ID: {"secret": 20}}
        assert secrets.reveal_secret(db, "plain3").reveal() == base64.b64encode(PLAIN[3])
        stored = clean.dump()
        for value in PLAIN:
            assert value not in stored
            assert base64.b64encode(value)[:-4] not in stored
        # A second time there is nothing to do.
        assert dict(seal_plain(db).written) == {}


def test_another_row_s_value_does_not_open(clean: TestDatabase, kek: Path) -> None:
    """Who can write to the database cannot give one record's secret out as another's."""
    with open_database(clean.url, keks=sources(kek)) as db:
        secrets.set_secret(db, "public", SecretBytes(b"public"), policy=None)
        policies.set_policy(db, "strict", policies.Rule(("digest",)))
        secrets.set_secret(db, "precious", SecretBytes(b"precious"), policy="strict")
        ((value,),) = clean.query("SELECT secret FROM secrets WHERE secret_id='precious'")
        clean.sql(f"UPDATE secrets SET secret='{value}' WHERE secret_id='public'")
        with pytest.raises(VerificationError) as caught:
            secrets.reveal_secret(db, "public")
        assert caught.value.code == "seal.broken"
        found = {one.check: one for one in doctor.examine(db.engine, sources(kek))}
        assert found["broken"].subject == "secret public"


def test_a_change_of_keys_while_the_broker_serves(
    clean: TestDatabase, kek: Path, platform: Any, host: Any
) -> None:
    """1. both keys for all, the new one first; 2. rewrap; 3. the old one away. Nobody notices."""
    host_type, client_type = type(host), type(host.client)
    config = ServerConfig("127.0.0.1:0", clean.url, keks=sources(kek), trust_arks=(platform.fingerprint,))
    with serve(config) as broker, open_database(clean.url, keks=sources(kek)) as db:
        for number in range(30):
            secrets.set_secret(db, f"key{number}", SecretBytes(b"%d" % number * 10), policy=None)
        reports.generate_report_key(db, "r", policy=None)
        client = client_type(broker.address)
        there = host_type(platform, client)
        connection, launched = there.connect(), there.launch()
        stop, failures, served = threading.Event(), [], []

        def ask() -> None:
            number = 0
            while not stop.is_set():
                number = (number + 1) % 30
                try:
                    got = client.fetch(connection, (GUID, "binary", "key", f"key{number}"))
                    assert got[GUID] == b"%d" % number * 10
                    served.append(number)
                except Exception as error:  # noqa: BLE001 - whatever it is, it must not happen
                    failures.append(error)
                    return

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            write_keys(kek, NEW, OLD)
            with open_database(clean.url, keks=sources(kek)) as ours:
                walked = rewrap(ours)
                assert walked.failed == []
                assert walked.written["secret"] == 30
                assert walked.written["report key"] == 1
                assert walked.written["launch"] >= 1
                # What the broker wrote under the old key meanwhile, before it looked at the file again.
                while set(survey(ours.engine).under) != {NEW_ID}:
                    rewrap(ours)
            before = len(served)
            while len(served) < before + 30 and thread.is_alive():
                stop.wait(0.01)
        finally:
            stop.set()
            thread.join(timeout=30)
        assert failures == []
        assert len(served) >= 30
        # A launch begun under the old key ends under the new one.
        assert launched.open(client.secret(**launched.claim)) == {}
        client.channel.close()
    write_keys(kek, NEW)
    with open_database(clean.url, keks=sources(kek)) as db:
        assert secrets.reveal_secret(db, "key7").reveal() == base64.b64encode(b"7" * 10)
        assert reports.show_report_key(db, "r").public is not None


def test_what_is_set_meanwhile_stays(clean: TestDatabase, kek: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk writes a record only if it still is what was read."""
    with open_database(clean.url, keks=sources(kek)) as db:
        clean.sql(*plain_rows())
        swap = sealed._swap
        theirs = base64.b64encode(b"set meanwhile").decode()

        def interrupted(*arguments: Any) -> None:
            clean.sql(f"UPDATE secrets SET secret='{theirs}' WHERE secret_id='plain5'")
            swap(*arguments)

        monkeypatch.setattr(sealed, "_swap", interrupted)
        walked = seal_plain(db)
        assert walked.written["secret"] == 19
        assert walked.overtaken == 1
        assert secrets.reveal_secret(db, "plain5").reveal().decode() == theirs


def test_a_walk_that_was_killed_goes_on(
    clean: TestDatabase, kek: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed, "PAGE", 6)
    with open_database(clean.url, keks=sources(kek)) as db:
        clean.sql(*plain_rows())
        seal_plain(db)
        write_keys(kek, NEW, OLD)
    swap, pages = sealed._swap, 0

    def killed(*arguments: Any) -> None:
        nonlocal pages
        pages += 1
        if pages == 3:
            raise KeyboardInterrupt
        swap(*arguments)

    with open_database(clean.url, keks=sources(kek)) as db:
        with monkeypatch.context() as patched:
            patched.setattr(sealed, "_swap", killed)
            with pytest.raises(KeyboardInterrupt):
                rewrap(db)
        assert survey(db.engine).under == {NEW_ID: {"secret": 12}, OLD_ID: {"secret": 8}}
        for number in (0, 19):
            assert secrets.reveal_secret(db, f"plain{number}").reveal() == base64.b64encode(PLAIN[number])
        assert rewrap(db).written == {"secret": 8}
        assert survey(db.engine).under == {NEW_ID: {"secret": 20}}


def test_a_key_that_is_gone_is_named_before_the_first_launch(
    clean: TestDatabase, kek: Path, platform: Any, host: Any
) -> None:
    with open_database(clean.url, keks=sources(kek)) as db:
        secrets.set_secret(db, "a", SecretBytes(b"k"), policy=None)
        reports.generate_report_key(db, "r", policy=None)
    write_keys(kek, NEW)
    config = ServerConfig("127.0.0.1:0", clean.url, keks=sources(kek), trust_arks=(platform.fingerprint,))
    with pytest.raises(VerificationError) as caught:
        serve(config)
    assert caught.value.code == "seal.key-missing"
    assert f"{OLD_ID} (report keys: 1, secrets: 1)" in caught.value.message
    engine = connect_engine(clean.url)
    (found,) = [one for one in doctor.examine(engine, sources(kek)) if one.check == "kek-missing"]
    engine.dispose()
    assert (found.level, found.subject) == ("error", f"key-encryption key {OLD_ID}")


def test_a_served_database_wants_a_key(clean: TestDatabase) -> None:
    if clean.kind == "sqlite":
        pytest.skip("a SQLite database has its own")
    with pytest.raises(UsageError) as caught:
        open_database(clean.url)
    assert caught.value.code == "kek.unconfigured"
    with open_database(clean.url, keks=KekSources("none")) as db:
        secrets.set_secret(db, "a", SecretBytes(b"k"), policy=None)
        assert clean.query("SELECT secret FROM secrets") == [("aw==",)]
        for act in (seal_plain, rewrap):
            with pytest.raises(UsageError):
                act(db)


def test_a_launch_begun_on_one_replica_is_finished_by_another(
    clean: TestDatabase, kek: Path, platform: Any, host: Any
) -> None:
    host_type, client_type = type(host), type(host.client)
    config = ServerConfig("127.0.0.1:0", clean.url, keks=sources(kek), trust_arks=(platform.fingerprint,))
    with serve(config) as first, serve(config) as second:
        here, there = (host_type(platform, client_type(one.address)) for one in (first, second))
        launched = here.launch()
        reply = there.client.secret((CONNECTION_GUID, "", "connection", ""), **launched.claim)
        assert set(launched.open(reply)) == {CONNECTION_GUID}
        assert here.client.refusal(here.client.secret, **launched.claim).code == "launch.unknown"
        for one in (here, there):
            one.client.channel.close()
