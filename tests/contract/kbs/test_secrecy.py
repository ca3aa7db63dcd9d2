# SPDX-License-Identifier: Apache-2.0
"""Planted secrets: none may show in a log, an error, a repr or, for transport keys, in the database."""

from __future__ import annotations

import base64
import contextlib
import os
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from databases import PASSWORD

from sealpod.errors import SealpodError
from sealpod.kbs.core.records import Connection, StoredSecret
from sealpod.kbs.store.broker import SqlBrokerStore
from sealpod.kbs.store.database import open_database
from sealpod.kbs.store.keks import KekSources
from sealpod.kbs.store.reports import delete_report_key, generate_report_key
from sealpod.kbs.store.secrets import delete_secret, set_secret
from sealpod.secret import SecretBytes

GUID = "e6f5a162-d67f-4750-a67c-5d065f2a9910"
CONNECTION_GUID = "1ee27366-0c87-43a6-af48-28543eaf7cb0"
PLANTED = b"planted-secret-0123456789abcdef!"


def spellings(secret: bytes) -> tuple[bytes, ...]:
    """Ways in which bytes get into texts; base64 without its end, which depends on what follows."""
    text = base64.b64encode(secret)
    return secret, secret.hex().encode(), secret.hex().upper().encode(), text[: len(text) // 4 * 4 - 4]


def test_transport_keys_are_sealed_in_the_database(host: Any, database: Any) -> None:
    launched = host.launch()
    stored = database.dump()
    assert launched.launch_id.encode() in stored
    for key in (launched.keys.tek, launched.keys.tik):
        for spelling in spellings(key.reveal()):
            assert spelling not in stored


def test_a_spent_launch_leaves_nothing(host: Any, database: Any) -> None:
    launched = host.launch()
    host.client.secret(**launched.claim)
    if database.kind == "sqlite":
        database.query("PRAGMA wal_checkpoint(TRUNCATE)")
    (row,) = database.query(f"SELECT count(*) FROM sealpod_launches WHERE launch_id='{launched.launch_id}'")
    assert row == (0,)
    for key in (launched.keys.tek, launched.keys.tik):
        for spelling in spellings(key.reveal()):
            assert spelling not in database.dump()


def test_a_file_is_the_brokers_alone(host: Any, database: Any) -> None:
    host.launch()
    for path in database.directory.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path


def test_what_is_set_by_command_is_sealed(host: Any, database: Any) -> None:
    connection = host.connect()
    with open_database(database.url, keks=KekSources(database.kek)) as db:
        set_secret(db, "planted", SecretBytes(PLANTED), policy=None)
        generate_report_key(db, "planted", policy=None)
        stored = database.dump()
        for secret in (PLANTED, base64.b64decode(connection["key"])):
            for spelling in spellings(secret):
                assert spelling not in stored
        assert host.client.fetch(connection, (GUID, "binary", "key", "planted")) == {GUID: PLANTED}
        delete_secret(db, "planted")
        delete_report_key(db, "planted")


def test_planted_secrets_do_not_show(
    host: Any, owner: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    planted = base64.b64encode(PLANTED).decode()
    shown: list[str] = []
    owner(
        f"REPLACE INTO secrets VALUES (40,'planted','{planted}',NULL)",
        f"REPLACE INTO secrets VALUES (41,'broken','{planted}\n',NULL)",
        """REPLACE INTO keysets VALUES (40,'PLANTED','["planted","broken"]',NULL)""",
    )
    with caplog.at_level("DEBUG"):
        launched = host.launch()
        connection = host.connect()
        for asked in [
            (GUID, "binary", "key", "planted"),
            (GUID, "xml", "key", "planted"),
            (GUID, "binary", "key", "broken"),
            (GUID, "json", "bundle", "PLANTED"),
        ]:
            for call, arguments in [
                (host.client.secret, launched.claim),
                (host.client.online, {"client_id": connection["client_id"]}),
            ]:
                try:
                    if call == host.client.online:
                        call(arguments["client_id"], asked)
                    else:
                        call(asked, **arguments)
                except host.client.Refused as refused:
                    shown.append(repr(refused))
    captured = capfd.readouterr()
    text = "\n".join([*shown, caplog.text, captured.out, captured.err]).encode()
    assert b"planted" in text
    for secret in (
        PLANTED,
        launched.keys.tek.reveal(),
        launched.keys.tik.reveal(),
        base64.b64decode(connection["key"]),
    ):
        for spelling in spellings(secret):
            assert spelling not in text


def test_records_do_not_show_their_secrets(host: Any, owner: Any, database: Any) -> None:
    planted = base64.b64encode(PLANTED).decode()
    owner(f"REPLACE INTO secrets VALUES (40,'planted','{planted}',NULL)")
    made = host.connect()
    with open_database(database.url, keks=KekSources(database.kek)) as db:
        store = SqlBrokerStore(db)
        secret = store.find_secret("planted")
        assert isinstance(secret, StoredSecret)
        connection = store.find_connection(UUID(made["client_id"]))
        assert isinstance(connection, Connection)
        shown = (repr(secret), str(secret), repr(connection), repr(db), str(db.engine))
    for value in shown:
        assert planted not in value
        assert made["key"] not in value
        assert database.server is None or PASSWORD not in value


def test_a_failing_statement_does_not_show_its_values(tmp_path: Path) -> None:
    with open_database(f"sqlite:///{tmp_path / 'kbs.db'}", keks=KekSources("none")) as db:
        with db.engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE secrets")
        with pytest.raises(SealpodError) as caught:
            set_secret(db, "x", SecretBytes(PLANTED), policy=None)
    chain: BaseException | None = caught.value
    while chain is not None:
        for spelling in spellings(PLANTED):
            assert spelling not in repr(chain).encode() + str(chain).encode()
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)


def test_a_broker_bug_gives_a_status_without_its_text(
    host: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    launched = host.launch()

    def fail(*_: object) -> None:
        raise ValueError(f"could not handle {PLANTED!r}")

    monkeypatch.setattr(SqlBrokerStore, "find_keyset", fail)
    with caplog.at_level("DEBUG"):
        refused = host.client.refusal(host.client.secret, (GUID, "", "bundle", "KEYSET-1"), **launched.claim)
    assert (refused.text, refused.code) == ("internal error", "internal.error")
    assert PLANTED.decode() not in caplog.text + repr(refused)
    assert "ValueError" in caplog.text


def test_a_restart_keeps_launches_and_connections(platform: Any, tmp_path: Path, host: Any) -> None:
    from sealpod.kbs.server import ServerConfig, serve

    config = ServerConfig(
        "127.0.0.1:0", f"sqlite:///{tmp_path / 'kbs.db'}", trust_arks=(platform.fingerprint,)
    )
    host_type, client_type = type(host), type(host.client)

    @contextlib.contextmanager
    def started() -> Any:
        with serve(config) as running:
            client = client_type(running.address)
            yield host_type(platform, client)
            client.channel.close()

    with started() as before:
        launched, connection = before.launch(), before.connect()
    with started() as after:
        assert launched.open(after.client.secret(**launched.claim)) == {}
        assert after.client.entries(connection) != {}  # its binding
    assert os.path.exists(tmp_path / "kbs.db")
