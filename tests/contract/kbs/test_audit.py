# SPDX-License-Identifier: Apache-2.0
"""The log of decisions: what a record says, that every change to it shows, its commands, the webhook."""

from __future__ import annotations

import http.server
import json
import queue
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from databases import TestDatabase

from sealpod.cli import main
from sealpod.errors import UsageError, VerificationError
from sealpod.kbs.core.audit import GENESIS, Decision, Entry, chain, verify_entries
from sealpod.kbs.core.limits import Limits
from sealpod.kbs.core.records import Change
from sealpod.kbs.server import ServerConfig, serve
from sealpod.kbs.server.webhook import HttpSender, Webhook
from sealpod.kbs.store.auditlog import newest_entries, read_entries, read_head, verify_log
from sealpod.kbs.store.broker import SqlBrokerStore
from sealpod.kbs.store.database import Database, open_database
from sealpod.kbs.store.keks import KekSources
from sealpod.secret import SecretBytes

GUID = "e6f5a162-d67f-4750-a67c-5d065f2a9910"
BUNDLE = (GUID, "json", "bundle", "KEYSET-1")
KEY_B64 = "RcHGava52DPvj1uoIk/NVDYlwxi0A6yyIZ8ilhEX3X4="


@pytest.fixture
def db(database: TestDatabase, broker: Any) -> Iterator[Database]:
    with open_database(database.url, keks=KekSources(database.kek)) as opened:
        yield opened


def newest(db: Database) -> dict[str, Any]:
    (entry,) = newest_entries(db.engine, holding=(), limit=1)
    return entry.fields()


def put_back(entry: Entry) -> str:
    values = f"{entry.number}, '{entry.hash}', '{entry.record}'"
    return f"INSERT INTO sealpod_audit (seq, hash, record) VALUES ({values})"


class TestRecords:
    def test_a_release(self, host: Any, db: Database) -> None:
        launched = host.launch()
        bundle = newest(db)
        host.client.secret(BUNDLE, **launched.claim, description="shim launch")
        record = newest(db)
        assert (record["call"], record["outcome"]) == ("GetSecret", "granted")
        assert record["launch"] == bundle["launch"] == launched.launch_id
        assert record["secrets"] == ["bundle:KEYSET-1"]
        assert record["released"] == ["bundle:KEYSET-1", "key:key_id1"]
        assert (record["platform"], record["root"]) == ("model", "model")
        for name in ("ark", "chain", "chip"):
            assert record[name] == bundle[name]
            assert len(record[name]) == 64
        assert (record["policy"], record["firmware"]) == ("0x00000003", "0.24.15")
        assert record["description"] == "shim launch"
        assert record["peer"].startswith("ipv4:127.0.0.1:")
        assert record["request"]
        assert record["time"].endswith("Z")
        assert bundle["request"] != record["request"]

    def test_a_refusal_names_the_rule_and_both_values(self, host: Any, owner: Any, db: Database) -> None:
        owner(
            """REPLACE INTO policy VALUES (50,'["other"]','[]',0,0,'[]',NULL,NULL,1)""",
            "UPDATE keysets SET polid=50",
        )
        host.client.refusal(host.client.secret, BUNDLE, **host.launch().claim)
        record = newest(db)
        assert (record["outcome"], record["code"]) == ("refused", "policy.digest")
        assert record["reason"] == "Policy validation failed: fw digest not valid"
        assert record["failed"] == {
            "policy": "50",
            "rule": "digest",
            "allowed": ["other"],
            "actual": record["digest"],
        }
        assert "released" not in record

    def test_a_policy_that_agreed_is_named(self, host: Any, owner: Any, db: Database) -> None:
        owner(
            "REPLACE INTO policy VALUES (50,'[]','[3]',0,0,'[]',NULL,NULL,1)", "UPDATE secrets SET polid=50"
        )
        host.client.secret(BUNDLE, **host.launch().claim)
        assert newest(db)["rules"] == ["50"]

    def test_a_long_policy_is_quoted_in_part(self, host: Any, owner: Any, db: Database) -> None:
        digests = json.dumps([f"d{number}" for number in range(100)])
        owner(
            f"REPLACE INTO policy VALUES (50,'{digests}','[]',0,0,'[]',NULL,NULL,1)",
            "UPDATE secrets SET polid=50",
        )
        host.client.refusal(host.client.secret, BUNDLE, **host.launch().claim)
        allowed = newest(db)["failed"]["allowed"]
        assert allowed == [*(f"d{number}" for number in range(8)), "and 92 more"]

    def test_a_changed_measurement(self, host: Any, db: Database) -> None:
        launched = host.launch()
        other = host.launch()
        claim = {**launched.claim, "measurement": other.claim["measurement"]}
        host.client.refusal(host.client.secret, BUNDLE, **claim)
        record = newest(db)
        assert (record["outcome"], record["code"]) == ("refused", "measurement.mismatch")
        assert record["launch"] == launched.launch_id
        assert "released" not in record

    def test_what_a_stranger_says_is_bounded(self, host: Any, db: Database) -> None:
        asked = [(f"{GUID[:-2]}{number:02x}", "", "key", "é" * 1024) for number in range(64)]
        host.client.refusal(host.client.secret, *asked, **host.launch().claim, description="x" * 10_000)
        (entry,) = newest_entries(db.engine, holding=(), limit=1)
        assert len(entry.record) < 40_000
        assert all(len(label) <= 80 for label in entry.fields()["secrets"])

    def test_every_call_leaves_one(self, host: Any, db: Database) -> None:
        before = read_head(db.engine).number
        launched = host.launch()
        host.client.refusal(host.client.bundle, "nonsense")
        host.client.secret(BUNDLE, **launched.claim)
        host.client.refusal(host.client.secret, BUNDLE, **launched.claim)
        host.client.refusal(host.client.online, str(uuid4()), BUNDLE)
        assert read_head(db.engine).number == before + 5

    def test_no_secret_in_it(self, host: Any, db: Database) -> None:
        connection = host.connect()
        launched = host.launch()
        host.client.secret(BUNDLE, (GUID[::-1].replace("-", "")[:8] + GUID[8:], "json", "key", "key_id1"),
                           **launched.claim)  # fmt: skip
        host.client.fetch(connection, (GUID, "binary", "key", "key_id1"))
        text = "".join(entry.record for entry in read_entries(db.engine))
        keys = [
            connection["key"],
            KEY_B64,
            launched.keys.tek.reveal().hex(),
            launched.keys.tik.reveal().hex(),
        ]
        assert not [key for key in keys if key in text]


class TestChain:
    def test_whole_on_every_database(self, host: Any, db: Database) -> None:
        host.launch()
        assert verify_log(db.engine) == read_head(db.engine)

    def test_appended_to_by_many(self, database: TestDatabase, db: Database) -> None:
        """Several stores of several threads each, as replicas have them: one chain, and no number twice."""
        before = read_head(db.engine).number
        others = [open_database(database.url, keks=KekSources(database.kek)) for _ in range(3)]
        stores = [SqlBrokerStore(one) for one in others]

        def append(number: int) -> Entry:
            change = Change(Decision("GetBundle", "refused", request=str(number)))
            return stores[number % 3].settle(change, now=1.0, limits=Limits())

        try:
            with ThreadPoolExecutor(9) as pool:
                entries = list(pool.map(append, range(90)))
        finally:
            for one in others:
                one.close()
        assert sorted(entry.number for entry in entries) == list(range(before + 1, before + 91))
        assert verify_log(db.engine).number == before + 90

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            ("UPDATE sealpod_audit SET record='{}' WHERE seq={n}", "record {n} was changed"),
            ("UPDATE sealpod_audit SET hash='" + "0" * 64 + "' WHERE seq={n}", "record {n} was changed"),
            ("DELETE FROM sealpod_audit WHERE seq={n}", "record {n} is missing"),
            ("UPDATE sealpod_audit SET seq=1000000 WHERE seq={n}", "record {n} is missing"),
        ],
    )
    def test_damage_shows(self, host: Any, owner: Any, db: Database, damage: str, message: str) -> None:
        for _ in range(3):
            host.launch()
        number = read_head(db.engine).number - 1
        (kept,) = list(read_entries(db.engine, after=number - 1, upto=number))
        owner(damage.replace("{n}", str(number)))
        with pytest.raises(VerificationError, match=message.replace("{n}", str(number))) as caught:
            verify_log(db.engine)
        assert caught.value.code == "audit.broken"
        owner(
            f"DELETE FROM sealpod_audit WHERE seq IN ({number}, 1000000)",
            put_back(kept),
        )
        assert verify_log(db.engine).number == number + 1

    def test_a_record_behind_the_newest(self, host: Any, owner: Any, db: Database) -> None:
        host.launch()
        beyond = read_head(db.engine).number + 5
        owner(f"INSERT INTO sealpod_audit (seq, hash, record) VALUES ({beyond}, 'x', 'x')")
        with pytest.raises(VerificationError, match="behind the newest"):
            verify_log(db.engine)
        owner(f"DELETE FROM sealpod_audit WHERE seq={beyond}")

    @pytest.mark.parametrize("number", [0, -1, -(2**40)])
    def test_a_record_before_the_first(self, host: Any, owner: Any, db: Database, number: int) -> None:
        """No chain reaches it, and it would be listed beside the others."""
        host.launch()
        forged = """{"call":"GetSecret","outcome":"granted","released":["key:forged"]}"""
        owner(f"INSERT INTO sealpod_audit (seq, hash, record) VALUES ({number}, '{GENESIS}', '{forged}')")
        with pytest.raises(VerificationError, match="before the first") as caught:
            verify_log(db.engine)
        assert caught.value.code == "audit.broken"
        owner(f"DELETE FROM sealpod_audit WHERE seq={number}")
        assert verify_log(db.engine)

    @pytest.mark.parametrize("column", ["seq='many'", "hash=x'ff'"])
    def test_a_head_that_is_none(
        self, host: Any, owner: Any, db: Database, database: TestDatabase, column: str
    ) -> None:
        if database.kind != "sqlite":
            pytest.skip("only SQLite keeps what is of no type")
        host.launch()
        head = read_head(db.engine)
        owner(f"UPDATE sealpod_audit_head SET {column}")
        with pytest.raises(VerificationError, match="head cannot be read"):
            verify_log(db.engine)
        assert host.client.refusal(host.launch).code == "audit.broken"
        owner(f"UPDATE sealpod_audit_head SET seq={head.number}, hash='{head.hash}'")
        assert verify_log(db.engine) == head

    def test_a_tail_cut_off_by_who_knows_of_the_head(self, host: Any, owner: Any, db: Database) -> None:
        """The log alone cannot tell; a head noted earlier can."""
        host.launch()
        shorter = read_head(db.engine)
        host.launch()
        noted = read_head(db.engine)
        (kept,) = list(read_entries(db.engine, after=shorter.number))
        owner(
            f"DELETE FROM sealpod_audit WHERE seq={noted.number}",
            f"UPDATE sealpod_audit_head SET seq={shorter.number}, hash='{shorter.hash}'",
        )
        assert verify_log(db.engine) == shorter
        with pytest.raises(VerificationError) as caught:
            verify_log(db.engine, anchor=noted.hash)
        assert caught.value.code == "audit.truncated"
        owner(
            put_back(kept),
            f"UPDATE sealpod_audit_head SET seq={noted.number}, hash='{noted.hash}'",
        )
        assert verify_log(db.engine, anchor=shorter.hash) == noted

    @pytest.mark.parametrize("more", [0, 3])
    def test_a_tail_cut_off_under_a_broker_that_runs(
        self, host: Any, owner: Any, db: Database, caplog: pytest.LogCaptureFixture, more: int
    ) -> None:
        """It has the head in its memory, and says so, whether or not others have gone on from there."""
        host.launch()
        shorter = read_head(db.engine)
        host.launch()
        noted = read_head(db.engine)
        (kept,) = list(read_entries(db.engine, after=shorter.number))
        host.launch()
        (last,) = list(read_entries(db.engine, after=noted.number))
        caplog.clear()  # of what an earlier test put back
        owner(
            f"DELETE FROM sealpod_audit WHERE seq>{shorter.number}",
            f"UPDATE sealpod_audit_head SET seq={shorter.number}, hash='{shorter.hash}'",
        )
        forger = SqlBrokerStore(db)
        for _ in range(more):
            forger.settle(Change(Decision("GetBundle", "refused")), now=1.0, limits=Limits())
        host.launch()
        assert f"it had number={last.number} hash={last.hash}" in caplog.text
        caplog.clear()
        host.launch()
        assert "cut off" not in caplog.text, "once is enough"
        owner(
            f"DELETE FROM sealpod_audit WHERE seq>{shorter.number}",
            put_back(kept),
            put_back(last),
            f"UPDATE sealpod_audit_head SET seq={last.number}, hash='{last.hash}'",
        )
        assert verify_log(db.engine, anchor=noted.hash) == Entry(last.number, last.hash, "")

    def test_every_removal_and_every_bit_shows(self) -> None:
        entries = list(chain([f'{{"call":"{n}"}}' for n in range(6)], number=0, previous=GENESIS))
        head = entries[-1]
        assert verify_entries(entries, head) == 6
        assert verify_entries([], Entry(0, GENESIS, ""), anchor=GENESIS) == 0
        for index, entry in enumerate(entries):
            rest = entries[:index] + entries[index + 1 :]
            changed = [*entries]
            changed[index] = Entry(entry.number, entry.hash, entry.record + " ")
            swapped = [*entries]
            swapped[index], swapped[index - 1] = swapped[index - 1], swapped[index]
            for damaged in (rest, changed, swapped, [*entries, entry]):
                with pytest.raises(VerificationError):
                    verify_entries(damaged, head)


@pytest.fixture
def sealpod(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """`sealpod kbs audit`, in this process; its output, or what it says when it must fail."""
    for name, value in database.environment.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str, status: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["sealpod", "kbs", "audit", *arguments])
        capsys.readouterr()
        found = main.main()
        shown = capsys.readouterr()
        assert found == status, shown.err
        return shown.out if status == 0 else shown.err

    return run


class TestCommands:
    def test_an_auditors_day(self, host: Any, sealpod: Any, db: Database) -> None:
        launched = host.launch()
        host.client.secret(BUNDLE, **launched.claim)
        host.client.refusal(host.client.secret, BUNDLE, **launched.claim)
        head = read_head(db.engine)
        assert sealpod("verify") == f"{head.number} records are whole; head {head.hash}\n"
        verified = json.loads(sealpod("verify", "--expect-head", head.hash, "-o", "json"))
        assert verified == {"schemaVersion": 1, "whole": True, "records": head.number, "head": head.hash}
        listed = sealpod("list", "--holding", launched.launch_id)
        assert [line.split()[3] for line in listed.splitlines()] == [
            "OUTCOME",
            "granted",
            "granted",
            "refused",
        ]
        refused = json.loads(
            sealpod("list", "--outcome", "refused", "--call", "GetSecret", "--limit", "1", "-o", "json")
        )
        (record,) = refused["records"]
        assert record["record"]["code"] == "launch.unknown"
        assert record["number"] == head.number
        shown = sealpod("show", str(head.number))
        assert f"hash: {head.hash}" in shown
        assert "code: launch.unknown" in shown
        lines = sealpod("export", "--after", str(head.number - 3)).splitlines()
        assert [json.loads(line)["number"] for line in lines] == list(range(head.number - 2, head.number + 1))
        # Who has the export checks the chain without us.
        previous = next(read_entries(db.engine, after=head.number - 4)).hash
        for line in map(json.loads, lines):
            (entry,) = chain([line["text"]], number=line["number"] - 1, previous=previous)
            assert entry.hash == line["hash"]
            previous = entry.hash
        assert "audit.unknown" in sealpod("show", "999999999", status=4)
        assert "audit.hash" in sealpod("verify", "--expect-head", "x", status=2)
        assert "audit.truncated" in sealpod("verify", "--expect-head", "a" * 64, status=3)

    def test_a_failed_rule_is_shown_with_both_values(
        self, host: Any, sealpod: Any, db: Database, owner: Any
    ) -> None:
        owner(
            "REPLACE INTO policy VALUES (50,'[]','[]',0,99,'[]',NULL,NULL,1)", "UPDATE secrets SET polid=50"
        )
        host.client.refusal(host.client.secret, BUNDLE, **host.launch().claim)
        shown = sealpod("show", str(read_head(db.engine).number))
        assert "rule: api-minor of policy 50\nallowed: 99\nactual: 24\n" in shown


class Receiver(http.server.BaseHTTPRequestHandler):
    """Keeps what it is sent; says no as often as it is told to."""

    received: queue.Queue[tuple[str, dict[str, Any]]]
    refusals: int

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind = type(self)
        if kind.refusals > 0:
            kind.refusals -= 1
            self.send_response(503)
        else:
            kind.received.put((self.headers.get("Authorization", ""), body))
            self.send_response(204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[tuple[str, type[Receiver]]]:
    kind = type("OneReceiver", (Receiver,), {"received": queue.Queue(), "refusals": 0})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/hook?a=b", kind
    server.shutdown()
    thread.join()
    server.server_close()


class TestWebhook:
    def test_each_decision_is_sent(
        self, host: Any, database: TestDatabase, platform: Any, receiver: Any, tmp_path: Path
    ) -> None:
        url, kind = receiver
        (tmp_path / "url").write_text(url + "\n")
        token = tmp_path / "token"
        token.write_text("s3cret\n")
        token.chmod(0o600)
        config = ServerConfig(
            "127.0.0.1:0",
            database.url,
            keks=KekSources(database.kek),
            trust_arks=(platform.fingerprint,),
            audit_webhook=str(tmp_path / "url"),
            audit_webhook_token=str(token),
        )
        kind.refusals = 1
        with serve(config) as running:
            client = type(host.client)(running.address)
            launched = type(host)(platform, client).launch()
            client.secret(BUNDLE, **launched.claim)
            client.channel.close()
            sent = [kind.received.get(timeout=20) for _ in range(2)]
        assert [body["record"]["call"] for _, body in sent] == ["GetBundle", "GetSecret"]
        assert {authorization for authorization, _ in sent} == {"Bearer s3cret"}
        for _, body in sent:
            record = json.dumps(body["record"], separators=(",", ":"))
            with open_database(database.url, keks=KekSources(database.kek)) as db:
                (entry,) = read_entries(db.engine, after=body["number"] - 1, upto=body["number"])
            assert (entry.hash, entry.record) == (body["hash"], record)

    def test_a_receiver_that_hangs_holds_nobody_up(self) -> None:
        release, entered = threading.Event(), threading.Event()

        def hang(_body: bytes) -> None:
            entered.set()
            release.wait(30)

        hook = Webhook(hang, size=2)
        hook.put(Decision("GetBundle"), None)
        assert entered.wait(10)
        for _ in range(5):
            hook.put(Decision("GetBundle"), None)
        assert hook.lost == 3
        release.set()
        hook.close()

    def test_what_does_not_get_through_is_counted(self, caplog: pytest.LogCaptureFixture) -> None:
        attempts: list[bytes] = []
        thrice = threading.Event()

        def refuse(body: bytes) -> None:
            attempts.append(body)
            if len(attempts) == 3:
                thrice.set()
            raise ConnectionError("no")

        hook = Webhook(refuse, pauses=(0.0, 0.0))
        hook.put(Decision("GetBundle"), Entry(7, "ab", "{}"))
        assert thrice.wait(10)
        hook.close(10.0)
        assert (len(attempts), hook.lost) == (3, 1)
        assert json.loads(attempts[0]) == {
            "number": 7,
            "hash": "ab",
            "record": {"call": "GetBundle", "outcome": "failed"},
        }
        assert "did not get through" in caplog.text

    @pytest.mark.parametrize("url", ["", "ftp://x/", "http://", "https:///x", "http://h ost/", "http://x:y/"])
    def test_what_is_no_url(self, url: str) -> None:
        with pytest.raises(UsageError) as caught:
            HttpSender(url, SecretBytes(b"t"))
        assert caught.value.code == "webhook.url"

    def test_a_token_others_could_read(self) -> None:
        url = "http://receiver.example/hook"
        with pytest.raises(UsageError) as caught:
            HttpSender(url, SecretBytes(b"t"))
        assert caught.value.code == "webhook.plaintext"
        HttpSender(url, None)
        HttpSender("https://receiver.example/hook", SecretBytes(b"t"))
        HttpSender("http://[::1]:80/hook", SecretBytes(b"t"))
