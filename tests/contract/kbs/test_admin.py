# SPDX-License-Identifier: Apache-2.0
"""The admin API over HTTP: every route of its document, who may use it, what it refuses, what it records."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from brokerkit import DIGEST, GUID, Answer, bundle, channel, measured, private, request

from sealpod.errors import SealpodError, UnavailableError
from sealpod.kbs.admin import schema
from sealpod.kbs.admin.audit import command_log
from sealpod.kbs.core.audit import MAX_LABEL, Decision, Entry
from sealpod.kbs.server import RunningBroker, ServerConfig, serve
from sealpod.kbs.server.admin import openapi
from sealpod.kbs.server.config import AdminConfig
from sealpod.kbs.store.auditlog import verify_log
from sealpod.kbs.store.database import open_database
from sealpod.wire.pb import keybroker_pb2 as pb

TOKEN = "0123456789abcdef" * 3
OTHER = "fedcba9876543210" * 3
KEY = bytes(range(32))
KEY_B64 = base64.b64encode(KEY).decode()


class Records:
    """An auditor that remembers."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []

    def record(self, decision: Decision, entry: Entry | None) -> None:
        assert entry is not None  # it is in the log
        self.decisions.append(decision)

    def admin(self) -> list[tuple[str, str, tuple[str, ...], str]]:
        found = [one for one in self.decisions if one.call.startswith("Admin")]
        return [(one.call, one.outcome, one.secrets, one.identity) for one in found]


Api = Callable[..., Answer]


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
def broker(platform: Any, tmp_path: Path, records: Records) -> Iterator[RunningBroker]:
    tokens = private(tmp_path / "tokens", f"# two\nops {TOKEN}\n{OTHER}\n".encode())
    (tmp_path / "resources").mkdir()
    (tmp_path / "resources/policy.json").write_text("{}")
    config = ServerConfig(
        "127.0.0.1:0",
        f"sqlite:///{tmp_path / 'kbs.db'}",
        (platform.fingerprint,),
        admin=AdminConfig("127.0.0.1:0", tokens),
        resources=str(tmp_path / "resources"),
    )
    with serve(config, auditor=records) as running:
        yield running


@pytest.fixture
def api(broker: RunningBroker) -> Api:
    def ask(method: str, path: str, body: Any = None, *, token: str | None = TOKEN, **more: Any) -> Answer:
        assert broker.admin_address is not None
        return request(broker.admin_address, method, path, body, token=token, **more)

    return ask


def test_an_owners_day(api: Api, broker: RunningBroker, platform: Any, records: Records) -> None:
    rule = {"digests": [DIGEST.hex()], "policies": [3], "minApi": "0.24", "buildIds": [15]}
    made = api("PUT", "/v1/policies/app", rule)
    assert made.status == 200
    assert made.json["digests"] == [base64.b64encode(DIGEST).decode()]
    assert api("PUT", "/v1/secrets/key_id1", {"value": KEY_B64, "policy": "app"}).status == 200
    assert api("PUT", "/v1/keysets/KEYSET-1", {"secrets": ["key_id1"], "policy": None}).status == 200
    assert api("GET", "/v1/policies/app").json["usedBy"] == ["secret key_id1"]
    assert api("GET", "/v1/secrets").json == {
        "schemaVersion": 1,
        "secrets": [{"id": "key_id1", "bytes": 32, "policy": "app", "sealed": True}],
    }
    with channel(broker.address) as link:
        launch = measured(link, platform)
        assert [one["id"] for one in api("GET", "/v1/launches").json["launches"]] == [launch.request.LaunchId]
        details = [pb.RequestDetails(Guid=GUID, SecretType="bundle", Id="KEYSET-1")]
        details += [pb.RequestDetails(Guid=_CONNECTION, SecretType="connection")]
        table = launch.ask(link, *details)
    assert json.loads(table[GUID]) == {"key_id1": KEY_B64}
    client = json.loads(table[_CONNECTION])["client_id"]
    shown = api("GET", f"/v1/connections/{client}").json
    assert (shown["active"], shown["root"], shown["policy"]) == (True, "model", 3)
    assert api("DELETE", f"/v1/connections/{client}").status == 204
    assert api("GET", f"/v1/connections/{client}").json["active"] is False

    assert api("DELETE", "/v1/policies/app").code == "policy.in-use"
    assert api("DELETE", "/v1/secrets/key_id1").status == 409
    for path in ("keysets/KEYSET-1", "secrets/key_id1", "policies/app"):
        assert api("DELETE", f"/v1/{path}").status == 204
        assert api("GET", f"/v1/{path}").status == 404
    assert ("AdminSet", "granted", ("secret:key_id1",), "token:ops") in records.admin()
    assert ("AdminDelete", "refused", ("policy:app",), "token:ops") in records.admin()


_CONNECTION = "1ee27366-0c87-43a6-af48-28543eaf7cb0"


def test_a_launch_that_was_ended_gets_nothing(api: Api, broker: RunningBroker, platform: Any) -> None:
    with channel(broker.address) as link:
        launch = bundle(link, platform).LaunchId
        assert api("GET", f"/v1/launches/{launch}").json["expired"] is False
        assert api("DELETE", f"/v1/launches/{launch}").status == 204
    assert api("GET", f"/v1/launches/{launch}").code == "launch.unlisted"


def test_a_value_is_shown_only_when_asked_for_and_that_is_recorded(
    api: Api, records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        answers = [api("PUT", "/v1/secrets/k", {"value": KEY_B64}), api("GET", "/v1/secrets/k")]
        answers += [api("GET", "/v1/secrets"), api("GET", "/v1/secrets/k?reveal=false")]
        assert not any(KEY_B64 in answer.body.decode() for answer in answers)
        before = len(records.decisions)
        shown = api("GET", "/v1/secrets/k?reveal=true", token=OTHER)
        assert shown.json["value"] == KEY_B64
        assert records.admin()[-1] == ("AdminReveal", "granted", ("secret:k",), "token:admin")
        assert len(records.decisions) == before + 1
        assert api("GET", "/v1/secrets/k?reveal=perhaps").code == "admin.body"
        assert api("HEAD", "/v1/secrets/k?reveal=true").status == 405
    for text in (KEY_B64, TOKEN, OTHER):
        assert text not in caplog.text
        assert not any(text in one.record() for one in records.decisions)


def test_nothing_is_shown_that_cannot_be_recorded(
    api: Api, broker: RunningBroker, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    api("PUT", "/v1/secrets/k", {"value": KEY_B64})

    def full(*_: object) -> None:
        raise SealpodError("no space", code="store.full")

    monkeypatch.setattr(records, "record", full)
    refused = api("GET", "/v1/secrets/k?reveal=true")
    assert refused.status == 500
    assert KEY_B64 not in refused.body.decode()


def test_nothing_is_done_that_cannot_be_recorded(
    api: Api, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise UnavailableError("no space", code="store.full")

    api("PUT", "/v1/secrets/k", {"value": KEY_B64})
    recorded = len(records.decisions)
    monkeypatch.setattr("sealpod.kbs.store.audit._append", full)
    monkeypatch.setattr(records, "record", lambda *_: None)
    for method, name in (("PUT", "new"), ("DELETE", "k"), ("GET", "k?reveal=true")):
        body = {"value": KEY_B64} if method == "PUT" else None
        assert api(method, f"/v1/secrets/{name}", body).code == "store.full"
    monkeypatch.undo()
    assert [one["id"] for one in api("GET", "/v1/secrets").json["secrets"]] == ["k"]
    assert len(records.decisions) == recorded


def test_each_call_of_an_owner_has_one_record(api: Api, records: Records, tmp_path: Path) -> None:
    long = "x" * 500
    calls = [
        ("PUT", "secrets/k", {"value": KEY_B64}, "granted"),
        ("PUT", "keysets/K", {"secrets": ["k"]}, "granted"),
        ("DELETE", "secrets/k", None, "refused"),
        ("PUT", "secrets/k", {"value": "AA", "policy": None}, "refused"),
        ("PUT", "secrets/k", {"value": KEY_B64, "policy": "nobody's"}, "refused"),
        ("GET", "secrets/k?reveal=true", None, "granted"),
        ("GET", "secrets/none?reveal=true", None, "refused"),
        ("DELETE", f"secrets/{long}", None, "refused"),
        ("DELETE", "keysets/K", None, "granted"),
        ("DELETE", "secrets/k", None, "granted"),
    ]
    for method, path, body, _ in calls:
        api(method, f"/v1/{path}", body)
    assert [one.outcome for one in records.decisions] == [outcome for *_, outcome in calls]
    assert max(len(name) for one in records.decisions for name in one.secrets) == MAX_LABEL
    with open_database(f"sqlite:///{tmp_path / 'kbs.db'}") as db:
        assert verify_log(db.engine).number == len(calls)
        log, caller = command_log(db)
        with log.changing("AdminDelete", caller, "secret:k"):
            pass  # No verb does nothing at all; if one did, it would be recorded all the same.
        assert verify_log(db.engine).number == len(calls) + 1


# --- who ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {'x' * 10_000}",
        "Bearer \xff\xfe",
    ],
)
def test_without_a_token(api: Api, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header}
    for method, path in [("GET", "/v1/secrets"), ("PUT", "/v1/policies/x"), ("POST", "/v1/policy-test")]:
        refused = api(method, path, {}, token=None, headers=headers)
        assert (refused.status, refused.code) == (401, "admin.unauthorized")
        assert refused.headers["www-authenticate"] == "Bearer"


def test_tokens_can_be_exchanged(api: Api, tmp_path: Path) -> None:
    assert api("GET", "/v1/secrets", token=OTHER).status == 200
    fresh = "z" * 64
    private(tmp_path / "tokens", f"ops {TOKEN}\nnew {fresh}\n".encode())
    assert api("GET", "/v1/secrets", token=fresh).status == 200
    assert api("GET", "/v1/secrets", token=OTHER).status == 401
    (tmp_path / "tokens").chmod(0o644)  # what others can read is not taken; the last good one stays
    assert api("GET", "/v1/secrets", token=fresh).status == 200


def test_open_routes_tell_no_keys(api: Api) -> None:
    api("PUT", "/v1/secrets/planted-name", {"value": KEY_B64})
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        found = api("GET", path, token=None)
        assert found.status == 200
        assert b"planted-name" not in found.body


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"token_file": None}, "admin.open"),
        ({"listen": "0.0.0.0:0"}, "admin.plaintext"),
        ({"listen": "nowhere"}, "kbs.listen"),
        ({"tokens": b"short\n"}, "admin.token-file"),
        ({"tokens": b"\n# nothing\n"}, "admin.token-file"),
        ({"tokens": b"a b c\n"}, "admin.token-file"),
        ({"mode": 0o644}, "kbs.file-mode"),
        ({"mode": 0o602}, "kbs.file-mode"),
        ({"gone": True}, "kbs.file"),
    ],
)
def test_set_ups_that_are_refused(tmp_path: Path, change: dict[str, Any], code: str) -> None:
    path = tmp_path / "tokens"
    private(path, change.get("tokens", TOKEN.encode() + b"\n"))
    path.chmod(change.get("mode", 0o600))
    if "gone" in change:
        path.unlink()
    admin = AdminConfig(change.get("listen", "127.0.0.1:0"), change.get("token_file", str(path)))
    with pytest.raises(SealpodError) as caught:
        serve(ServerConfig("127.0.0.1:0", f"sqlite:///{tmp_path / 'kbs.db'}", admin=admin)).stop()
    assert caught.value.code == code
    assert TOKEN not in str(caught.value)


# --- what it takes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("PUT", "/v1/secrets/k", {"value": KEY_B64, "extra": 1}, 400, "admin.body"),
        ("PUT", "/v1/secrets/k", {}, 400, "admin.body"),
        ("PUT", "/v1/secrets/k", {"value": 5}, 400, "admin.body"),
        ("PUT", "/v1/secrets/k", {"value": "!" * 8}, 400, "admin.body"),
        ("PUT", "/v1/secrets/k", {"value": ""}, 400, "secret.size"),
        ("PUT", "/v1/secrets/k", {"value": "A" * 20_000}, 400, "admin.body"),
        ("PUT", "/v1/secrets/k", {"value": KEY_B64, "policy": "nope"}, 404, "policy.unknown"),
        ("PUT", "/v1/secrets/k", b"{", 400, "admin.body"),
        ("PUT", "/v1/secrets/k", b"[1]", 400, "admin.body"),
        ("PUT", "/v1/secrets/k", b'{"value":"QQ==","value":"QQ=="}', 400, "admin.body"),
        ("PUT", "/v1/secrets/k", b"[" * 100_000, 400, "admin.body"),
        ("PUT", "/v1/secrets/k", b"\xff", 400, "admin.body"),
        ("PUT", "/v1/secrets/k", b"", 400, "admin.body"),
        ("PUT", "/v1/secrets/k", b" " * ((1 << 20) + 1), 413, "admin.too-large"),
        ("PUT", "/v1/keysets/K", {"secrets": ["nope"]}, 404, "secret.unknown"),
        ("PUT", "/v1/keysets/K", {"secrets": ["n" * 1024]}, 404, "secret.unknown"),
        ("PUT", "/v1/keysets/K", {"secrets": []}, 400, "keyset.empty"),
        ("PUT", "/v1/keysets/K", {"secrets": [None]}, 400, "admin.body"),
        ("PUT", "/v1/policies/p", {"digests": ["xyz"]}, 400, "policy.digest-syntax"),
        ("PUT", "/v1/policies/p", {"policies": [-1]}, 400, "admin.body"),
        ("PUT", "/v1/policies/p", {"policies": [1 << 32]}, 400, "admin.body"),
        ("PUT", "/v1/policies/p", {"policies": [True]}, 400, "admin.body"),
        ("PUT", "/v1/policies/p", {"policies": [1.0]}, 400, "admin.body"),
        ("PUT", "/v1/policies/p", {"minApi": "1"}, 400, "policy.version-syntax"),
        ("PUT", "/v1/policies/p", {"buildIds": [256]}, 400, "admin.body"),
        ("PUT", "/v1/policies/7", {}, 400, "policy.id"),
        ("PUT", "/v1/resources/r", {"type": "t", "path": "../x"}, 400, "resource.path"),
        ("PUT", "/v1/resources/r", {"type": "t"}, 400, "admin.body"),
        ("PUT", "/v1/report-keys/r", {"privateKey": KEY_B64}, 400, "report-key.syntax"),
        ("PUT", "/v1/connections/x", {}, 405, "admin.method"),
        ("POST", "/v1/secrets", {}, 405, "admin.method"),
        ("DELETE", "/v1/secrets/nope", None, 404, "secret.unknown"),
        ("GET", "/v1/launches/nope", None, 404, "launch.unlisted"),
        ("GET", "/v1/nothing", None, 404, "admin.route"),
        ("GET", "/v1/secrets/", None, 404, "admin.route"),
        ("GET", "/", None, 404, "admin.route"),
        ("POST", "/v1/policy-suggest", {}, 400, "policy.no-guest"),
        ("POST", "/v1/policy-suggest", {"measurements": [{}]}, 400, "measure.record"),
    ],
)
def test_mistakes(api: Api, method: str, path: str, body: Any, status: int, code: str) -> None:
    answer = api(method, path, body)
    assert (answer.status, answer.code) == (status, code)
    error = answer.json["error"]
    assert set(error) == {"code", "message", "remedy", "request"}
    assert error["message"]
    schema.check(openapi.document()["components"]["schemas"]["Error"], answer.json)
    assert KEY_B64 not in answer.body.decode()
    assert api("GET", "/healthz").status == 200


@pytest.mark.parametrize("name", ["default/key/key_id1", "a b", "ключ", "50%", "a?b#c", "..", "x/../y"])
def test_ids_of_any_spelling(api: Api, name: str) -> None:
    path = f"/v1/secrets/{quote(name, safe='')}"
    assert api("PUT", path, {"value": KEY_B64}).json["id"] == name
    assert api("GET", path).json["id"] == name
    assert api("DELETE", path).status == 204


@pytest.mark.parametrize("spelling", ["%FF", "%FE", "a%C3", "%ED%A0%80", "%C0%AF"])
def test_an_id_that_is_not_utf_8(api: Api, spelling: str) -> None:
    path = f"/v1/secrets/{spelling}"
    for method, body in (("PUT", {"value": KEY_B64}), ("GET", None), ("DELETE", None)):
        answer = api(method, path, body)
        assert (answer.status, answer.code) == (400, "admin.id")
    assert api("GET", "/v1/secrets").json["secrets"] == []
    # The character itself is one like others.
    assert api("PUT", "/v1/secrets/%EF%BF%BD", {"value": KEY_B64}).json["id"] == "\ufffd"


def test_what_a_path_takes_is_said(api: Api) -> None:
    assert api("POST", "/v1/secrets/k", {}).headers["allow"] == "DELETE, GET, PUT"
    assert api("PUT", "/v1/launches/k", {}).headers["allow"] == "DELETE, GET"
    assert api("POST", "/v1/secrets", {}).headers["allow"] == "GET"
    assert api("DELETE", "/v1/policy-test").headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the body is not JSON"),
        (b"\xff", "the body is not UTF-8"),
        (b'{"policy":"\\ud800"}', "the body has half of a character"),
        (b"[" * 100_000, "the body nests too deeply"),
        (b'{"policy":1,"policy":1}', "the body has a member twice, or a number that is none"),
        (b'{"policy":NaN}', "the body has a member twice, or a number that is none"),
        (b"[]", "the body is not a JSON object"),
        ({"value": 5}, "value is not a string"),
        ({"value": KEY_B64, "policy": []}, "policy is not a string or null"),
    ],
)
def test_a_body_that_is_none_is_told_in_words(api: Api, body: Any, message: str) -> None:
    assert api("PUT", "/v1/secrets/k", body).json["error"]["message"] == message


def test_a_request_has_its_number(api: Api, records: Records) -> None:
    answer = api("PUT", "/v1/secrets/k", {"value": KEY_B64}, headers={"x-request-id": "mine-7"})
    assert answer.headers["x-request-id"] == "mine-7"
    assert records.decisions[-1].request == "mine-7"
    refused = api("GET", "/v1/secrets/nope", headers={"x-request-id": "bad word"})
    assert refused.json["error"]["request"] == refused.headers["x-request-id"] != "bad word"


def test_a_fault_of_ours_tells_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from sealpod.kbs.admin.service import Admin

    def fail(*_: object) -> None:
        raise ValueError(f"could not handle {KEY_B64}")

    monkeypatch.setattr(Admin, "list", fail)
    answer = api("GET", "/v1/secrets")
    assert (answer.status, answer.code) == (500, "internal.error")
    assert KEY_B64 not in answer.body.decode() + caplog.text
    assert "ValueError" in caplog.text


# --- its document ----------------------------------------------------------------------------------------


def routes(document: dict[str, Any]) -> set[tuple[str, str]]:
    return {
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in item
        if method in ("get", "put", "post", "delete")
    }


def served(broker: RunningBroker) -> set[tuple[str, str]]:
    """What the application really has."""
    from sealpod.kbs.server.admin.app import AdminApi
    from sealpod.kbs.server.ops import ops_routes

    process = broker._process
    parts: Any = process._admin
    app = AdminApi(parts, process.metrics, process._checkers).app(
        ops_routes(process._readiness, process.metrics)
    )
    return {
        (method, route.path.replace("{id:path}", "{id}"))
        for route in app.routes
        for method in route.methods
        if method != "HEAD"
    }


def test_every_route_is_documented_and_every_documented_route_answers(
    api: Api, broker: RunningBroker, platform: Any
) -> None:
    document = api("GET", "/openapi.json").json
    assert document["openapi"].startswith("3.1.")
    assert routes(document) == served(broker)
    prepare(api, broker, platform)
    for method, path in sorted(routes(document), key=_deletes_last):
        operation = document["paths"][path][method.lower()]
        body = BODIES.get((method, path))
        assert ("requestBody" in operation) == (body is not None)
        found = api(
            method, path.replace("{id}", IDS.get(path.split("/")[2], "") if "{id}" in path else ""), body
        )
        assert str(found.status) in operation["responses"], (method, path, found.body)
        assert found.status < 300, (method, path, found.body)
        check_answer(document, operation, found)


def test_operation_ids_are_unique(api: Api) -> None:
    document = api("GET", "/openapi.json").json
    names = [
        operation["operationId"]
        for item in document["paths"].values()
        for method, operation in item.items()
        if method in ("get", "put", "post", "delete")
    ]
    assert len(names) == len(set(names))
    assert "listReportKeys" in names
    assert "showLaunch" in names


IDS = {
    "secrets": "key_id1",
    "keysets": "K",
    "policies": "app",
    "resources": "r",
    "report-keys": "rk",
    "connections": "",
    "launches": "",
}
BODIES: dict[tuple[str, str], Any] = {
    ("PUT", "/v1/secrets/{id}"): {"value": KEY_B64},
    ("PUT", "/v1/keysets/{id}"): {"secrets": ["key_id1"]},
    ("PUT", "/v1/policies/{id}"): {"policies": [3]},
    ("PUT", "/v1/resources/{id}"): {"type": "default/x/y", "path": "policy.json"},
    ("PUT", "/v1/report-keys/{id}"): {},
    ("POST", "/v1/policy-test"): {
        "digest": DIGEST.hex(),
        "policy": 3,
        "api": "0.24",
        "build": 15,
        "requests": [{"type": "key", "id": "key_id1"}],
    },
    ("POST", "/v1/policy-suggest"): {"digests": [DIGEST.hex()]},
}


def prepare(api: Api, broker: RunningBroker, platform: Any) -> None:
    """Something of each kind."""
    for (method, path), body in BODIES.items():
        if method == "PUT":
            assert api(method, path.replace("{id}", IDS[path.split("/")[2]]), body).status == 200
    with channel(broker.address) as link:
        launch = measured(link, platform)
        table = launch.ask(link, pb.RequestDetails(Guid=_CONNECTION, SecretType="connection"))
        IDS["connections"] = json.loads(table[_CONNECTION])["client_id"]
        IDS["launches"] = bundle(link, platform).LaunchId


def _deletes_last(route: tuple[str, str]) -> tuple[bool, bool, str]:
    method, path = route
    return method == "DELETE", "secrets" in path and method == "DELETE", path


def check_answer(document: dict[str, Any], operation: dict[str, Any], found: Answer) -> None:
    """The answer is what its schema says."""
    content = operation["responses"][str(found.status)].get("content", {})
    expected = content.get("application/json", {}).get("schema")
    if expected is None or expected == {"type": "object"}:
        return
    schema.check(resolve(document, expected), found.json)


def resolve(document: dict[str, Any], value: Any) -> Any:
    if isinstance(value, dict):
        if "$ref" in value:
            return resolve(document, document["components"]["schemas"][value["$ref"].rpartition("/")[2]])
        return {name: resolve(document, item) for name, item in value.items()}
    return [resolve(document, item) for item in value] if isinstance(value, list) else value


# --- policies --------------------------------------------------------------------------------------------


def test_a_trial_says_what_the_broker_would(api: Api, broker: RunningBroker, platform: Any) -> None:
    api("PUT", "/v1/policies/app", {"digests": [DIGEST.hex()], "policies": [3]})
    api("PUT", "/v1/policies/old", {"minApi": "1.0", "buildIds": [7]})
    api("PUT", "/v1/secrets/good", {"value": KEY_B64, "policy": "app"})
    api("PUT", "/v1/secrets/bad", {"value": KEY_B64, "policy": "old"})
    asked = {"digest": DIGEST.hex(), "policy": 3, "api": "0.24", "build": 15}
    for name, granted in (("good", True), ("bad", False), ("missing", False)):
        result = api("POST", "/v1/policy-test", {**asked, "requests": [{"type": "key", "id": name}]}).json
        assert result["granted"] is granted
        with channel(broker.address) as link:
            launch = measured(link, platform)
            detail = pb.RequestDetails(Guid=GUID, Format="binary", SecretType="key", Id=name)
            if granted:
                assert launch.ask(link, detail)[GUID] == KEY
            else:
                with pytest.raises(Exception, match="INTERNAL"):
                    launch.ask(link, detail)
    result = api("POST", "/v1/policy-test", {**asked, "requests": [{"type": "key", "id": "bad"}]}).json
    (one,) = result["requests"]
    rules = {rule["rule"]: rule for rule in one["policies"][0]["rules"]}
    assert one["policies"][0]["policy"] == "old"
    # Both that fail are told, with what is allowed and what was found.
    assert rules["min-api"] == {"rule": "min-api", "allowed": ["1.0"], "actual": "0.24", "holds": False}
    assert rules["build-id"] == {"rule": "build-id", "allowed": [7], "actual": 15, "holds": False}
    assert rules["digest"]["holds"]
    assert result["default"]["agrees"]
    assert result["requests"][0]["error"] is None
    missing = api("POST", "/v1/policy-test", {**asked, "requests": [{"type": "key", "id": "missing"}]}).json
    assert missing["requests"][0]["error"]["code"] == "secret.unknown"
    assert KEY_B64 not in json.dumps(result)
    assert api("GET", "/v1/connections").json["connections"] == []  # a trial keeps nothing


def test_a_suggestion_can_be_set_as_it_is(api: Api) -> None:
    made = api("POST", "/v1/policy-suggest", {"digests": [DIGEST.hex()], "minApi": "0.24"}).json
    assert made["policy"]["policies"] == [3]
    assert api("PUT", "/v1/policies/suggested", made["policy"]).status == 200
    shown = api("GET", "/v1/policies/suggested").json
    assert {name: shown[name] for name in made["policy"]} == made["policy"]
