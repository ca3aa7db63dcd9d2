# SPDX-License-Identifier: Apache-2.0
"""Garbage in any field: always a status with a code, and a broker that still serves afterwards."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

GUID = "e6f5a162-d67f-4750-a67c-5d065f2a9910"
BUNDLE = (GUID, "JSON", "bundle", "KEYSET-1")
METHODS = ("GetBundle", "GetSecret", "GetOnlineSecret")

# The fixtures hold nothing that one example could leave behind for the next.
fuzz = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
words = st.integers(0, 2**32 - 1)
texts = st.one_of(
    st.text(max_size=80),
    st.sampled_from(["", GUID, "KEYSET-1", "key_id1", "connection", "json", "binary", "' OR 1=1 --"]),
    st.binary(max_size=200).map(lambda raw: base64.b64encode(raw).decode()),
)
details = st.lists(st.tuples(texts, texts, st.one_of(texts, st.just("bundle")), texts), max_size=4)


def attempt(client: Any, call: Any, *args: Any, **kwargs: Any) -> None:
    """Either an answer or a refusal of ours; never a dropped call, never a bug."""
    refused = None
    try:
        call(*args, **kwargs)
    except client.Refused as error:
        refused = error
    if refused is not None:
        assert refused.status is grpc.StatusCode.INTERNAL, refused
        assert refused.code != "internal.error", refused
        assert refused.text


@pytest.fixture
def connection(host: Any) -> dict[str, str]:
    made: dict[str, str] = host.connect()
    return made


@pytest.fixture(autouse=True)
def _still_serving(host: Any) -> Any:
    yield
    launched = host.launch()
    assert GUID in launched.open(host.client.secret(BUNDLE, **launched.claim))


@fuzz
@given(chain=texts, policy=words)
def test_bundle_fields(client: Any, chain: str, policy: int) -> None:
    attempt(client, client.bundle, chain, policy)


@fuzz
@given(data=st.data())
def test_damaged_chains(host: Any, data: st.DataObject) -> None:
    chain = bytearray(host.platform.chain)
    for _ in range(data.draw(st.integers(1, 4))):
        chain[data.draw(st.integers(0, len(chain) - 1))] = data.draw(st.integers(0, 255))
    attempt(host.client, host.client.bundle, base64.b64encode(chain).decode())


@fuzz
@given(
    launch_id=st.one_of(texts, st.uuids().map(str)),
    measurement=texts,
    digest=texts,
    description=st.text(max_size=2000),
    policy=words,
    api_major=words,
    api_minor=words,
    build_id=words,
    requests=details,
)
def test_secret_fields(client: Any, requests: Any, **claim: Any) -> None:
    attempt(client, client.secret, *requests, **claim)


@fuzz
@given(data=st.data())
def test_each_field_of_a_good_request(host: Any, data: st.DataObject) -> None:
    launched = host.launch()
    name = data.draw(
        st.sampled_from(["measurement", "digest", "description", "policy", "api_major", "details"])
    )
    if name == "details":
        attempt(host.client, host.client.secret, *data.draw(details), **launched.claim)
        return
    value = data.draw(words if name in ("policy", "api_major") else texts)
    attempt(host.client, host.client.secret, BUNDLE, **{**launched.claim, name: value})


@fuzz
@given(client_id=st.one_of(texts, st.uuids().map(str)), requests=details)
def test_online_fields(client: Any, client_id: str, requests: Any) -> None:
    attempt(client, client.online, client_id, *requests)


@fuzz
@given(requests=details)
def test_requests_of_a_connected_guest(host: Any, connection: dict[str, str], requests: Any) -> None:
    attempt(host.client, host.client.online, connection["client_id"], *requests)


@fuzz
@given(method=st.sampled_from(METHODS), raw=st.binary(max_size=300))
def test_bytes_that_are_no_message(client: Any, method: str, raw: bytes) -> None:
    attempt(client, client.call, method, raw)


def test_text_that_is_not_utf8(client: Any) -> None:
    refused = client.refusal(client.call, "GetBundle", b"\x0a\x02\xff\xfe")
    assert refused.text == "Malformed BundleRequest"
    assert refused.code == "request.malformed"


def test_a_message_over_the_limit(client: Any) -> None:
    with pytest.raises(client.Refused) as caught:
        client.bundle("A" * 300_000)
    assert caught.value.status is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_large_chain_within_the_limit(client: Any) -> None:
    assert client.refusal(client.bundle, "A" * 200_000).code == "base64.too-long"


def test_unknown_fields_are_ignored(host: Any) -> None:
    chain = base64.b64encode(host.platform.chain)
    size = len(chain)
    raw = b"\x0a" + bytes([size & 0x7F | 0x80, size >> 7]) + chain + b"\x10\x03" + b"\xfa\x01\x03abc"
    assert host.client.call("GetBundle", raw)[3]


def test_an_unknown_method(client: Any) -> None:
    with pytest.raises(client.Refused) as caught:
        client.call("GetEverything", b"")
    assert caught.value.status is grpc.StatusCode.UNIMPLEMENTED


def test_a_strangers_words_stay_in_one_log_line(host: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="sealpod.kbs.audit"):
        launched = host.launch()
        host.client.secret(
            (GUID, "", "connection", "\n"), **launched.claim, description='x"\nfake outcome="granted" \x1b[2J'
        )
    line = caplog.messages[-1]
    assert "\n" not in line
    assert "\x1b" not in line
    assert 'description="x\\"?fake outcome=\\"granted\\" ?[2J"' in line


def test_decisions_are_written_down(host: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="sealpod.kbs.audit"):
        launched = host.launch()
        host.client.refusal(host.client.secret, (GUID, "", "key", "nope"), **launched.claim)
        host.client.secret(BUNDLE, **launched.claim)
    bundle, refused, granted = caplog.messages[-3:]
    digest = base64.b64encode(hashlib.sha256(b"sev-test-vector firmware").digest()).decode()
    for line in (bundle, refused, granted):
        assert 'root="model"' in line
        assert f'launch="{launched.launch_id}"' in line
        assert 'policy="0x00000003"' in line
    assert f'ark="{host.platform.fingerprint}"' in bundle
    for line in (refused, granted):
        assert f'digest="{digest}"' in line
        assert 'firmware="0.24.15"' in line
    assert 'outcome="refused" code="secret.unknown"' in refused
    assert 'secrets=["key:nope"]' in refused
    assert 'outcome="granted"' in granted
    assert 'secrets=["bundle:KEYSET-1"]' in granted
