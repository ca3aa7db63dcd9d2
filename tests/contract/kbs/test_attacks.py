# SPDX-License-Identifier: Apache-2.0
"""What simple-kbs 0.1 lets an attacker do, tried on this broker: each attack, and that it fails.

One test per weakness of simple-kbs, numbered as in docs/security.md. An attacker is the host: it has the
machine and the network, opens launches and says what it likes. On every database.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from brokerkit import Authority, channel, private
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from databases import TestDatabase

from sealpod.errors import SealpodError, VerificationError
from sealpod.kbc.online import OnlineClient
from sealpod.kbc.unary import Answer, Status
from sealpod.kbs.core.limits import Limits
from sealpod.kbs.server import ServerConfig, serve
from sealpod.kbs.server.config import TlsFiles
from sealpod.kbs.store.auditlog import newest_entries, verify_log
from sealpod.kbs.store.broker import SqlBrokerStore
from sealpod.kbs.store.connections import revoke_connection
from sealpod.kbs.store.database import open_database
from sealpod.kbs.store.keks import KekSources
from sealpod.kbs.store.reports import generate_report_key
from sealpod.kbs.store.secrets import set_secret
from sealpod.secret import SecretBytes
from sealpod.sev import measurement
from sealpod.sev.measurement import compute_measurement
from sealpod.sev.policy import Policy
from sealpod.sev.version import FirmwareVersion
from sealpod.wire.pb import keybroker_pb2 as pb

GUID = "e6f5a162-d67f-4750-a67c-5d065f2a9910"
CONNECTION_GUID = "1ee27366-0c87-43a6-af48-28543eaf7cb0"
BUNDLE = (GUID, "json", "bundle", "KEYSET-1")
KEY = (GUID, "binary", "key", "key_id1")
DIGEST = base64.b64encode(hashlib.sha256(b"sev-test-vector firmware").digest()).decode()
KEY_B64 = "RcHGava52DPvj1uoIk/NVDYlwxi0A6yyIZ8ilhEX3X4="
CONNECTION = (CONNECTION_GUID, "", "connection", "")
REPORT_KEY = base64.b64encode(
    ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
).decode()
GET_BUNDLE = "/keybroker.KeyBrokerService/GetBundle"
NOBODY = """REPLACE INTO policy VALUES (50,'["nobody"]','[]',0,0,'[]',NULL,NULL,1)"""

Replica = Callable[..., Any]


def test_01_a_root_of_the_attackers_own(host: Any) -> None:
    """A whole chain, self-made: its maker would know the transport keys and forge every measurement."""
    forged = type(host.platform)()
    refused = host.client.refusal(host.client.bundle, base64.b64encode(forged.chain).decode())
    assert refused.code == "chain.untrusted-root"


def test_01_a_root_that_is_not_trusted_any_more(host: Any, replica: Replica) -> None:
    """What began under a root ends with the trust in it: launches and connections, not only new bundles."""
    connection, launched = host.connect(), host.launch()
    there = replica(trust_arks=())
    for call in (
        lambda: there.client.secret(KEY, **launched.claim),
        lambda: there.client.online(connection["client_id"], KEY),
    ):
        refused = host.client.refusal(call)
        assert refused.code == "chain.untrusted-root"
    # Nothing was spent on the refusals.
    assert launched.open(host.client.secret(KEY, **launched.claim))
    assert host.client.fetch(connection, KEY)


def test_02_a_debuggable_launch_that_claims_a_strict_policy(host: Any, owner: Any) -> None:
    owner("REPLACE INTO policy VALUES (50,'[]','[3]',0,0,'[]',NULL,NULL,1)", "UPDATE secrets SET polid=50")
    launched = host.launch(policy=0)
    assert (
        host.client.refusal(host.client.secret, BUNDLE, **launched.claim, policy=3).code == "policy.mismatch"
    )
    honest = host.client.refusal(host.client.secret, BUNDLE, **launched.claim, policy=0)
    assert honest.code == "policy.sev-policy"


@pytest.mark.parametrize("part", ["api_major", "api_minor", "build_id"])
def test_03_version_numbers_whose_low_byte_is_measured(host: Any, owner: Any, part: str) -> None:
    """257 passes a minimum of 2, and its low byte is the 1 that was measured."""
    owner("REPLACE INTO policy VALUES (50,'[]','[]',2,0,'[]',NULL,NULL,1)", "UPDATE secrets SET polid=50")
    old = FirmwareVersion(1, 1, 1)
    launched = host.launch()
    proof = compute_measurement(
        launched.keys.tik, old, Policy.from_int(3), base64.b64decode(DIGEST), launched.mnonce
    )
    claim = {**launched.claim, "measurement": base64.b64encode(proof + launched.mnonce).decode()}
    version = {"api_major": 1, "api_minor": 1, "build_id": 1, part: 257}
    refused = host.client.refusal(host.client.secret, BUNDLE, **claim, **version)
    assert refused.code == "request.version-range"


@pytest.mark.parametrize(
    "broken",
    [
        "DELETE FROM policy",
        "UPDATE policy SET valid=0",
        "UPDATE policy SET allowed_digests='['",
        "UPDATE policy SET allowed_policies=NULL",
    ],
)
@pytest.mark.parametrize("kind", ["key", "bundle", "report", "resource"])
def test_04_a_policy_that_cannot_be_read(
    host: Any, replica: Replica, owner: Any, tmp_path: Path, kind: str, broken: str
) -> None:
    """simple-kbs logs it and releases under its default policy, which allows all."""
    asked = {
        "key": KEY,
        "bundle": BUNDLE,
        "report": (GUID, "", "report", "R"),
        "resource": (GUID, "binary", "resource", "T"),
    }[kind]
    host = replica()
    (tmp_path / "resources" / "file").write_bytes(b"content")
    owner(
        NOBODY,
        "UPDATE secrets SET polid=50",
        "UPDATE keysets SET polid=50",
        f"REPLACE INTO report_keypair VALUES (50,'R','{REPORT_KEY}',50)",
        "REPLACE INTO resources VALUES (50,'file','T','file',50)",
        broken,
    )
    launched, connection = host.launch(), host.connect()
    assert host.client.refusal(host.client.secret, asked, **launched.claim).code == "policy.unavailable"
    online = host.client.refusal(host.client.online, connection["client_id"], asked)
    assert online.code == "policy.unavailable"


def test_05_a_keysets_policy_on_every_database(host: Any, owner: Any) -> None:
    """simple-kbs reads the column with a type PostgreSQL refuses, and so goes on without the policy."""
    owner(NOBODY, "UPDATE keysets SET polid=50")
    refused = host.client.refusal(host.client.secret, BUNDLE, **host.launch().claim)
    assert refused.text == "Policy validation failed: fw digest not valid"


def test_06_two_resources_of_one_type(replica: Replica, owner: Any, tmp_path: Path) -> None:
    """Path and policy come from one row, and always the same one."""
    host = replica()
    (tmp_path / "resources" / "guarded").write_bytes(b"guarded")
    (tmp_path / "resources" / "open").write_bytes(b"open")
    owner(
        NOBODY,
        "REPLACE INTO resources VALUES (61,'open','T','open',NULL)",
        "REPLACE INTO resources VALUES (60,'guarded','T','guarded',50)",
    )
    asked = (GUID, "binary", "resource", "T")
    refused = host.client.refusal(host.client.secret, asked, **host.launch().claim)
    assert refused.code == "policy.digest"
    owner("UPDATE resources SET polid=50 WHERE id=61", "UPDATE resources SET polid=NULL WHERE id=60")
    launched = host.launch()
    assert launched.open(host.client.secret(asked, **launched.claim)) == {GUID: b"guarded"}


def test_07_input_that_makes_simple_kbs_panic(host: Any, replica: Replica, tmp_path: Path) -> None:
    """A status each time, with its text, and the broker lives."""
    bad_chain = host.platform.chain[:-1] + b"x"
    assert host.client.refusal(host.client.bundle, base64.b64encode(bad_chain).decode()).code.startswith("c")
    launched = host.launch()
    short = {**launched.claim, "measurement": base64.b64encode(bytes(47)).decode()}
    assert "Measurement Invalid" in host.client.refusal(host.client.secret, BUNDLE, **short).text
    odd = ("not-a-guid", "json", "bundle", "KEYSET-1")
    assert host.client.refusal(host.client.secret, odd, **launched.claim).code == "decode.guid"
    assert GUID in launched.open(host.client.secret(BUNDLE, **launched.claim))
    policy = tmp_path / "default_policy.json"
    with pytest.raises(SealpodError, match="default policy"):
        replica(default_policy_file=str(policy))
    rule = {"allowed_digests": ["nobody"], "allowed_policies": [], "allowed_build_ids": []}
    policy.write_text(json.dumps({**rule, "min_fw_api_major": 0, "min_fw_api_minor": 0}))
    guarded = replica(default_policy_file=str(policy))
    policy.write_text("{")
    refused = guarded.client.refusal(guarded.client.secret, BUNDLE, **guarded.launch().claim)
    assert refused.text == "Policy validation failed: fw digest not valid"


def test_08_a_misspelt_id_does_not_cost_the_launch(host: Any) -> None:
    launched = host.launch()
    for asked in [
        (GUID, "binary", "key", "typo"),
        (GUID, "", "bundle", "TYPO"),
        (GUID, "x", "key", "key_id1"),
    ]:
        assert host.client.refusal(host.client.secret, asked, **launched.claim)
    assert GUID in launched.open(host.client.secret(BUNDLE, **launched.claim))


def test_09_launches_and_connections_without_end(replica: Replica, owner: Any) -> None:
    owner("DELETE FROM sealpod_launches", "DELETE FROM sealpod_connections", "DELETE FROM conn_bundle")
    host = replica(limits=Limits(max_launches=3, max_connections=2))
    for _ in range(3):
        host.launch()
    assert host.client.refusal(host.launch).code == "launch.too-many"
    owner("UPDATE sealpod_launches SET expires_at=1")
    for _ in range(2):
        host.connect()
    launched = host.launch()
    refused = host.client.refusal(host.client.secret, CONNECTION, **launched.claim)
    assert refused.code == "connection.too-many"
    # The launch is not spent on it, and those whose time is over make room.
    owner("UPDATE sealpod_connections SET created_at=1")
    assert launched.open(host.client.secret(CONNECTION, **launched.claim))


def test_10_a_caller_without_a_certificate(
    host: Any, platform: Any, tmp_path: Path, database: TestDatabase
) -> None:
    ours, theirs = Authority("ours"), Authority("theirs")
    certificate, key = ours.issue("broker")
    files = TlsFiles(
        private(tmp_path / "c.pem", certificate),
        private(tmp_path / "k.pem", key),
        private(tmp_path / "a.pem", ours.pem),
    )
    config = ServerConfig(
        "127.0.0.1:0",
        database.url,
        keks=KekSources(database.kek),
        trust_arks=(platform.fingerprint,),
        tls=files,
    )
    with serve(config) as running:
        chain = base64.b64encode(platform.chain).decode()
        request = pb.BundleRequest(CertificateChain=chain, Policy=3).SerializeToString()
        for shown in (None, theirs.issue("host")):
            with channel(running.address, ours.pem, shown) as link, pytest.raises(grpc.RpcError) as caught:
                link.unary_unary(GET_BUNDLE)(request, timeout=10)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        with channel(running.address, ours.pem, ours.issue("host")) as link:
            assert link.unary_unary(GET_BUNDLE)(request, timeout=10)


def test_11_another_secret_under_the_guests_own_guid(host: Any, owner: Any) -> None:
    """Somebody on the way keeps the GUID and asks for another key; the guest would take that for its own."""
    other = base64.b64encode(b"o" * 32).decode()
    owner(f"REPLACE INTO secrets VALUES (51,'other','{other}',NULL)")
    connection, swap = host.connect(), {"on": False}

    def on_the_way(_address: Any, path: str, request: bytes) -> Answer:
        message = pb.OnlineSecretRequest.FromString(request)
        if swap["on"]:
            message.SecretRequests[0].Id = "other"
        reply = host.client.channel.unary_unary(path)(message.SerializeToString(), timeout=10)
        return Answer(Status(0, "", {}), reply)

    key = SecretBytes(base64.b64decode(connection["key"]))
    guest = OnlineClient(("broker", 1), connection["client_id"], key, transport=on_the_way)
    assert guest.get_secret("key", "key_id1").reveal() == base64.b64decode(KEY_B64)
    swap["on"] = True
    with pytest.raises(VerificationError) as caught:
        guest.get_secret("key", "key_id1")
    assert caught.value.code == "kbc.binding"
    # A client of simple-kbs', which does not know the extra entry, finds its secret as before.
    assert host.client.fetch(connection, KEY) == {GUID: base64.b64decode(KEY_B64)}


def test_12_replies_without_end_under_one_key(replica: Replica) -> None:
    first, second = (replica(limits=Limits(connection_messages=3)) for _ in range(2))
    connection = first.connect()
    for host in (first, second, first):
        assert host.client.fetch(connection, KEY)
    for host in (first, second):
        refused = host.client.refusal(host.client.online, connection["client_id"], KEY)
        assert refused.code == "connection.exhausted"


def test_12_a_connection_whose_time_is_over(replica: Replica) -> None:
    host = replica(limits=Limits(connection_ttl=0.0))
    refused = host.client.refusal(host.client.online, host.connect()["client_id"], KEY)
    assert refused.text.startswith("Connection not found: ")
    assert refused.code == "connection.expired"


def test_13_a_stolen_dump(host: Any, database: TestDatabase) -> None:
    planted = b"planted-secret-0123456789abcdef!"
    with open_database(database.url, keks=KekSources(database.kek)) as db:
        set_secret(db, "planted", SecretBytes(planted), policy=None)
        generate_report_key(db, "signer", policy=None)
        signer = SqlBrokerStore(db).find_report_key("signer")
        assert signer is not None
    connection, launched = host.connect(), host.launch()
    keys = [planted, base64.b64decode(connection["key"])]
    keys += [base64.b64decode(signer.value.reveal())]
    keys += [launched.keys.tek.reveal(), launched.keys.tik.reveal()]
    dump = database.dump()
    assert launched.launch_id.encode() in dump
    assert b"planted" in dump
    for key in keys:
        text = base64.b64encode(key)
        for spelling in (key, key.hex().encode(), key.hex().upper().encode(), text[: len(text) // 4 * 4 - 4]):
            assert spelling not in dump


def test_14_guessing_a_measurement_by_time(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is the one that takes the same time wherever the first difference is."""
    compared: list[tuple[bytes, bytes]] = []
    real = measurement.hmac.compare_digest

    def recorded(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return real(one, other)

    monkeypatch.setattr(measurement.hmac, "compare_digest", recorded)
    launched = host.launch()
    wrong = bytes([launched.measure[0] ^ 1]) + launched.measure[1:]
    claim = {**launched.claim, "measurement": base64.b64encode(wrong + launched.mnonce).decode()}
    assert host.client.refusal(host.client.secret, BUNDLE, **claim).code == "measurement.mismatch"
    assert (launched.measure, wrong) in compared


def test_15_a_description_that_forges_log_lines(
    host: Any, database: TestDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    text = 'x"\nINFO call="GetSecret" outcome="granted"\x1b[2J' + "A" * 5000
    with caplog.at_level("INFO", logger="sealpod.kbs.audit"):
        launched = host.launch()
        host.client.secret(CONNECTION, **launched.claim, description=text)
    assert all("\n" not in line and "\x1b" not in line for line in caplog.messages)
    assert max(len(line) for line in caplog.messages) < 3000
    (stored,) = {
        row[0] for row in database.query("SELECT launch_description FROM conn_bundle") if "INFO" in row[0]
    }
    assert len(stored) == 256
    assert stored.isprintable()


@pytest.mark.parametrize("path", ["../outside", "/etc/hostname", "link", "", ".", "deep/../../outside"])
def test_16_a_resource_that_lies_elsewhere(replica: Replica, owner: Any, tmp_path: Path, path: str) -> None:
    host = replica()
    (tmp_path / "outside").write_bytes(b"outside")
    (tmp_path / "resources" / "deep").mkdir()
    (tmp_path / "resources" / "deep" / "inside").write_bytes(b"inside")
    (tmp_path / "resources" / "link").symlink_to(tmp_path / "outside")
    asked = (GUID, "binary", "resource", "T")
    owner(f"REPLACE INTO resources VALUES (60,'r','T','{path}',NULL)")
    launched = host.launch()
    refused = host.client.refusal(host.client.secret, asked, **launched.claim)
    assert refused.text.startswith("Cannot fulfill secret request: ")
    assert refused.code in ("resource.path", "resource.file")
    owner("REPLACE INTO resources VALUES (60,'r','T','deep/inside',NULL)")
    assert launched.open(host.client.secret(asked, **launched.claim)) == {GUID: b"inside"}


def test_17_a_report_shown_to_another_reader_at_another_time(host: Any, owner: Any) -> None:
    owner(f"REPLACE INTO report_keypair VALUES (50,'R','{REPORT_KEY}',NULL)")
    signer = serialization.load_der_private_key(base64.b64decode(REPORT_KEY), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)

    def report(**extension: str) -> tuple[dict[str, Any], str, bytes]:
        launched = host.launch()
        request = pb.SecretRequest(
            LaunchMeasurement=launched.claim["measurement"],
            LaunchId=launched.launch_id,
            Policy=3,
            ApiMinor=24,
            BuildId=15,
            FwDigest=DIGEST,
            SecretRequests=[pb.RequestDetails(Guid=GUID, SecretType="report", Id="R", **extension)],
        )
        raw = host.client.call("GetSecret", request.SerializeToString())
        outer = json.loads(launched.open(raw)[GUID])
        assert list(outer) == ["connection", "signature"]
        return json.loads(outer["connection"]), outer["connection"], base64.b64decode(outer["signature"])

    plain, text, signature = report()
    signer.public_key().verify(signature, text.encode(), ec.ECDSA(hashes.SHA256()))
    # simple-kbs' six fields in its order, and what every statement on a model says.
    assert list(plain) == [
        "policy",
        "fw_api_major",
        "fw_api_minor",
        "fw_build_id",
        "launch_description",
        "fw_digest",
        "platform",
    ]
    assert plain["platform"] == "model"
    fresh, text, signature = report(Nonce="n-1", Audience="https://verifier.example")
    signer.public_key().verify(signature, text.encode(), ec.ECDSA(hashes.SHA256()))
    assert (fresh["nonce"], fresh["audience"]) == ("n-1", "https://verifier.example")
    assert 0 < fresh["expires_at"] - fresh["issued_at"] <= 600
    forged = text.replace("n-1", "n-2")
    with pytest.raises(InvalidSignature):
        signer.public_key().verify(signature, forged.encode(), ec.ECDSA(hashes.SHA256()))


def test_18_a_release_nobody_hears_of(host: Any, database: TestDatabase, owner: Any) -> None:
    connection = host.connect()
    host.client.fetch(connection, KEY)
    with open_database(database.url, keks=KekSources(database.kek)) as db:
        (entry,) = newest_entries(db.engine, holding=(), limit=1)
        record = entry.fields()
        assert record["released"] == ["key:key_id1"]
        assert record["client"] == connection["client_id"]
        assert record["platform"] == "model"
        assert record["peer"]
        # Nor does a guest keep what its owner takes away.
        revoke_connection(db, connection["client_id"])
        assert (
            host.client.refusal(host.client.online, connection["client_id"], KEY).code == "connection.unknown"
        )
        head = verify_log(db.engine)
        # Somebody with the database makes the release disappear.
        changed = entry.record.replace("key:key_id1", "key:key_id2")
        owner(f"UPDATE sealpod_audit SET record='{changed}' WHERE seq={entry.number}")
        with pytest.raises(VerificationError, match=f"record {entry.number} was changed"):
            verify_log(db.engine)
        owner(f"UPDATE sealpod_audit SET record='{entry.record}' WHERE seq={entry.number}")
        assert verify_log(db.engine, anchor=head.hash) == head


def test_19_a_minimum_of_firmware_in_the_policy(host: Any) -> None:
    """simple-kbs loses bits of it, so that no such guest can be launched and owners leave it out."""
    launched = host.launch(policy=0x18_00_0003)
    assert launched.open(host.client.secret(BUNDLE, **launched.claim, policy=0x18_00_0003))


def test_20_a_published_key_in_every_new_database(tmp_path: Path) -> None:
    with open_database(f"sqlite:///{tmp_path / 'new.db'}") as db, db.engine.connect() as connection:
        for table in ("secrets", "keysets", "report_keypair", "resources", "conn_bundle"):
            assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one() == 0


@pytest.mark.parametrize("value", [KEY_B64 + "\\n", "not base64", "_-8=", KEY_B64[:-1]])
def test_21_one_bad_member_that_poisons_a_bundle(host: Any, owner: Any, value: str) -> None:
    owner(
        f"REPLACE INTO secrets VALUES (51,'bad','{value}',NULL)",
        """REPLACE INTO keysets VALUES (10,'KEYSET-1','["key_id1","bad"]',NULL)""",
    )
    launched = host.launch()
    refused = host.client.refusal(host.client.secret, BUNDLE, **launched.claim)
    assert refused.code == "secret.malformed"
    owner("""REPLACE INTO keysets VALUES (10,'KEYSET-1','["key_id1"]',NULL)""")
    assert GUID in launched.open(host.client.secret(BUNDLE, **launched.claim))


def test_22_more_than_the_guest_has_room_for(host: Any, owner: Any) -> None:
    large = base64.b64encode(bytes(700)).decode()
    owner(
        *(f"REPLACE INTO secrets VALUES ({n},'large{n}','{large}',NULL)" for n in range(60, 64)),
        """REPLACE INTO keysets VALUES (60,'LARGE','["large60","large61","large62","large63"]',NULL)""",
    )
    launched = host.launch()
    refused = host.client.refusal(host.client.secret, (GUID, "", "bundle", "LARGE"), **launched.claim)
    assert refused.text.startswith("Cannot fulfill secret request: secret table too large: ")
    assert refused.code == "secret.table-too-large"


@pytest.mark.parametrize(
    "text", ["' OR '1'='1", "key_id1' --", '" OR ""="', "x'; DROP TABLE secrets; --", "%", "key_id_", "\\"]
)
@pytest.mark.parametrize("kind", ["key", "bundle", "report", "resource"])
def test_sql_in_an_id(host: Any, kind: str, text: str) -> None:
    launched = host.launch()
    refused = host.client.refusal(host.client.secret, (GUID, "binary", kind, text), **launched.claim)
    assert refused.code.endswith(".unknown")
    assert GUID in launched.open(host.client.secret(BUNDLE, **launched.claim))


def test_two_secrets_under_one_guid(host: Any) -> None:
    """The guest's kernel would show none of them."""
    refused = host.client.refusal(
        host.client.secret, BUNDLE, (GUID.upper(), "binary", "key", "key_id1"), **host.launch().claim
    )
    assert refused.code == "request.duplicate-guid"


def test_the_log_calls_the_record_that_stands_wrong(host: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Each line of the log names the record's number and hash, so that a log kept elsewhere is an anchor."""
    with caplog.at_level(logging.INFO, logger="sealpod.kbs.audit"):
        host.launch()
    assert caplog.messages[-1].startswith("number=")
    assert " hash=" in caplog.messages[-1]
