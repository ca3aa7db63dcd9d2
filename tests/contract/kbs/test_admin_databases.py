# SPDX-License-Identifier: Apache-2.0
"""Everything a key owner manages, on every database: made, listed, shown, replaced and ended over HTTP, and
seen the same by the command that works on the database itself."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from brokerkit import DIGEST, Answer, bundle, channel, measured, private, request
from databases import TestDatabase

from sealpod.cli import main
from sealpod.kbs.admin.nouns import NOUNS
from sealpod.kbs.server import RunningBroker, ServerConfig, serve
from sealpod.kbs.server.config import AdminConfig
from sealpod.kbs.store.keks import KekSources
from sealpod.wire.pb import keybroker_pb2 as pb

TOKEN = "0123456789abcdef" * 3
CONNECTION_GUID = "1ee27366-0c87-43a6-af48-28543eaf7cb0"
KEY = base64.b64encode(bytes(range(32))).decode()
SECRET, KEYSET, POLICY = "default/ключ/1", "KEYSET %1", "app"
RULE = {"digests": [DIGEST.hex()], "policies": [3], "minApi": "0.24", "buildIds": [15]}
# In the order in which they can be made; the reverse is that in which they can be deleted.
MADE: dict[str, tuple[str, dict[str, Any]]] = {
    "policies": (POLICY, RULE),
    "secrets": (SECRET, {"value": KEY, "policy": POLICY}),
    "keysets": (KEYSET, {"secrets": [SECRET], "policy": POLICY}),
    "resources": ("r", {"type": "default/x/y", "path": "file", "policy": POLICY}),
    "report-keys": ("rk", {"policy": POLICY}),
}
UNKNOWN = {"launches": "launch.unlisted", "policies": "policy.unknown"}

Api = Callable[..., Answer]


@pytest.fixture
def broker(platform: Any, database: TestDatabase, tmp_path: Path) -> Iterator[RunningBroker]:
    """With an admin API, which the module's other brokers have not."""
    tokens = private(tmp_path / "tokens", f"ops {TOKEN}\n".encode())
    config = ServerConfig(
        "127.0.0.1:0",
        database.url,
        (platform.fingerprint,),
        keks=KekSources(database.kek),
        admin=AdminConfig("127.0.0.1:0", tokens),
    )
    with serve(config) as running:
        yield running


@pytest.fixture
def api(broker: RunningBroker) -> Api:
    def ask(method: str, name: str, key: str = "", body: Any = None) -> Answer:
        assert broker.admin_address is not None
        path = f"/v1/{name}/{quote(key, safe='')}".rstrip("/")
        return request(broker.admin_address, method, path, body, token=TOKEN)

    return ask


@pytest.fixture
def command(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    """What ``sealpod kbs NOUN VERB`` prints of the database, as JSON."""
    for name, value in database.environment.items():
        monkeypatch.setenv(name, value)

    def run(*words: str) -> dict[str, Any]:
        assert main.dispatch(["kbs", *words, "-o", "json"]) == 0
        shown: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert shown.pop("schemaVersion") == 1
        return shown

    return run


def test_every_kind_on_every_database(
    api: Api, command: Callable[..., dict[str, Any]], broker: RunningBroker, platform: Any
) -> None:
    connection, launch = began(broker, platform)
    ids = {
        **{name: key for name, (key, _) in MADE.items()},
        "connections": connection,
        "launches": launch,
    }
    assert set(ids) == {noun.name for noun in NOUNS}
    assert set(MADE) == {noun.name for noun in NOUNS if noun.body is not None}
    for name, (key, body) in MADE.items():
        made = api("PUT", name, key, body)
        assert made.status == 200, made.body
        assert api("PUT", name, key, body).status == 200  # once more is the same, and no second one
    for noun in NOUNS:
        key = ids[noun.name]
        shown = api("GET", noun.name, key).json
        assert shown[noun.id] == key
        assert command(noun.noun, "show", key) == shown
        listed = api("GET", noun.name).json[noun.key]
        assert [one for one in listed if one[noun.id] == key] == [{m: shown[m] for m in listed[0]}]
        assert command(noun.noun, "list")[noun.key] == listed
    used = {f"secret {SECRET}", f"keyset {KEYSET}", "resource r", "report key rk"}
    assert set(api("GET", "policies", POLICY).json["usedBy"]) == used
    assert command("secret", "show", SECRET, "--reveal")["value"] == KEY

    asked = {"digest": DIGEST.hex(), "policy": 3, "api": "0.24", "build": 15}
    trial = {**asked, "requests": [{"type": "bundle", "id": KEYSET}]}
    assert api("POST", "policy-test", body=trial).json["granted"] is True
    api("PUT", "policies", POLICY, {**RULE, "buildIds": [16]})
    refused = api("POST", "policy-test", body=trial).json
    assert {one["policy"] for one in refused["requests"][0]["policies"]} == {POLICY}
    assert refused["granted"] is False
    assert api("DELETE", "policies", POLICY).code == "policy.in-use"
    assert api("DELETE", "secrets", SECRET).code == "secret.in-use"

    for name in reversed(MADE):
        ended(api, name, ids[name])
    ended(api, "launches", launch)
    assert api("DELETE", "connections", connection).status == 204
    assert command("connection", "show", connection)["active"] is False
    assert command("connection", "delete", connection) == {"id": connection, "deleted": True}
    for noun in NOUNS:
        assert api("GET", noun.name).json[noun.key] == []


def began(broker: RunningBroker, platform: Any) -> tuple[str, str]:
    """A connection, and a launch in progress."""
    with channel(broker.address) as link:
        detail = pb.RequestDetails(Guid=CONNECTION_GUID, SecretType="connection")
        table = measured(link, platform).ask(link, detail)
        return json.loads(table[CONNECTION_GUID])["client_id"], bundle(link, platform).LaunchId


def ended(api: Api, name: str, key: str) -> None:
    code = UNKNOWN.get(name, f"{name.removesuffix('s')}.unknown")
    assert api("DELETE", name, key).status == 204
    assert api("GET", name, key).code == code
    assert api("DELETE", name, key).code == code
