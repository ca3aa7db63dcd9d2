# SPDX-License-Identifier: Apache-2.0
"""online_sev_kbc against a scripted broker: what is asked, what is believed, what is refused."""

from __future__ import annotations

import base64
import json
import struct

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealpod.errors import DecodeError, RefusedError, UnavailableError, VerificationError
from sealpod.kbc.online import METHOD, OnlineClient, parse_address, parse_connection
from sealpod.kbc.unary import Answer, Status
from sealpod.ocicrypt import keywrap
from sealpod.ocicrypt.options import PrivateOptions
from sealpod.secret import SecretBytes
from sealpod.wire.binding import BINDING_NAME, request_digest
from sealpod.wire.pb import keybroker_pb2

ADDRESS = ("broker", 44444)
CLIENT_ID = "2cf13667-ea72-4013-9dd6-155e89c5a28f"
CONNECTION_KEY = bytes(range(32))
KEY = bytes(range(32, 64))
OK = Status(0, "", {})


class Broker:
    """Answers as simple-kbs does, unless told otherwise."""

    def __init__(self) -> None:
        self.requests: list[keybroker_pb2.OnlineSecretRequest] = []
        self.status = OK
        self.key = CONNECTION_KEY
        self.iv = bytes(12)
        self.guard: str | None = None
        self.flip: int | None = None

    def __call__(self, address: tuple[str, int], path: str, request: bytes) -> Answer:
        assert (address, path) == (ADDRESS, METHOD)
        message = keybroker_pb2.OnlineSecretRequest.FromString(request)
        self.requests.append(message)
        guard = self.guard or message.SecretRequests[0].Guid
        plain = struct.pack("<QQ", 1, len(guard)) + guard.encode() + struct.pack("<Q", len(KEY)) + KEY
        sealed = bytearray(AESGCM(self.key).encrypt(self.iv, plain, None))
        if self.flip is not None:
            sealed[self.flip // 8] ^= 1 << self.flip % 8
        response = keybroker_pb2.OnlineSecretResponse(
            Payload=base64.b64encode(sealed).decode(), IV=base64.b64encode(self.iv).decode()
        )
        return Answer(self.status, response.SerializeToString())


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def client(broker: Broker) -> OnlineClient:
    return OnlineClient(ADDRESS, CLIENT_ID, SecretBytes(CONNECTION_KEY), transport=broker)


def test_a_key_is_asked_for_by_id(broker: Broker, client: OnlineClient) -> None:
    assert client.get_secret("key", "key_id1").reveal() == KEY
    [request] = broker.requests
    assert request.ClientId == CLIENT_ID
    [details] = request.SecretRequests
    assert (details.Format, details.SecretType, details.Id) == ("binary", "key", "key_id1")


def test_unwrapping_a_packet(broker: Broker, client: OnlineClient) -> None:
    document = {
        "symkey": base64.b64encode(bytes(32)).decode(),
        "digest": f"sha256:{'0' * 64}",
        "cipheroptions": {"nonce": base64.b64encode(bytes(16)).decode()},
    }
    private = PrivateOptions.decode(SecretBytes(json.dumps(document).encode()))
    packet = keywrap.wrap(SecretBytes(KEY), private, "kbs:///a/b/c", rng=bytes)
    assert client.unwrap(packet) == private.encode()
    assert broker.requests[0].SecretRequests[0].Id == "a/b/c"


def test_the_replay_guard_is_new_each_time(broker: Broker, client: OnlineClient) -> None:
    client.get_secret("key", "a")
    client.get_secret("key", "a")
    first, second = (request.SecretRequests[0].Guid for request in broker.requests)
    assert first != second


def test_a_replayed_answer_is_refused(broker: Broker, client: OnlineClient) -> None:
    broker.guard = "0a46e24d-478c-4eb1-8696-113eeec3aa99"
    with pytest.raises(VerificationError) as caught:
        client.get_secret("key", "a")
    assert caught.value.code == "kbc.replay"


def test_every_changed_bit_is_refused(broker: Broker, client: OnlineClient) -> None:
    client.get_secret("key", "a")
    size = 8 + 8 + 36 + 8 + len(KEY) + 16
    for bit in range(8 * size):
        broker.flip = bit
        with pytest.raises(VerificationError):
            client.get_secret("key", "a")


def test_another_brokers_key_is_refused(broker: Broker, client: OnlineClient) -> None:
    broker.key = bytes(32)
    with pytest.raises(VerificationError) as caught:
        client.get_secret("key", "a")
    assert caught.value.code == "kbc.payload"


def test_a_nonce_of_another_length_is_refused(broker: Broker, client: OnlineClient) -> None:
    broker.iv = bytes(16)
    with pytest.raises(DecodeError):
        client.get_secret("key", "a")


def test_a_refusal_carries_text_code_and_remedy(broker: Broker, client: OnlineClient) -> None:
    trailers = {"sealpod-code": "kbs.policy", "sealpod-remedy": "ask%20nicely"}
    broker.status = Status(13, "Policy validation failed: fw digest not valid", trailers)
    with pytest.raises(RefusedError) as caught:
        client.get_secret("key", "key_id1")
    assert "Policy validation failed: fw digest not valid" in caught.value.message
    assert (caught.value.code, caught.value.remedy) == ("kbs.policy", "ask nicely")


def test_a_foreign_refusal_gets_a_code_of_ours(broker: Broker, client: OnlineClient) -> None:
    broker.status = Status(13, "Connection not found\x1b[2J: x", {"sealpod-code": "No Code]"})
    with pytest.raises(RefusedError) as caught:
        client.get_secret("key", "a")
    assert caught.value.code == "kbc.refused"
    assert "\x1b" not in caught.value.one_line()


def test_another_status_is_no_refusal(broker: Broker, client: OnlineClient) -> None:
    broker.status = Status(12, "unknown service", {})
    with pytest.raises(UnavailableError, match="unknown service"):
        client.get_secret("key", "a")


def test_noise_instead_of_a_message(broker: Broker) -> None:
    for message in (b"\xff", b"\x0a\x01!", b""):
        client = OnlineClient(
            ADDRESS, CLIENT_ID, SecretBytes(CONNECTION_KEY), transport=lambda *_, m=message: Answer(OK, m)
        )
        with pytest.raises(DecodeError):
            client.get_secret("key", "a")


def test_the_upstream_payload_vector() -> None:
    """Key 00..1f, IV of zeros, GUID 2cf13667-..., `test secret`."""
    payload = (
        "D7y13rUsg70sqKk1GCyRmeAgMGIbt1YYrfvStPfSaWZ/bMuFTpaOKwL2RJD59wp7yDV5gHJxRqVQtj8mPgU9kMkcW2njtCRx"
        "rKmXy/ysklDlWS3Sicbh"
    )
    response = keybroker_pb2.OnlineSecretResponse(Payload=payload, IV=base64.b64encode(bytes(12)).decode())
    client = OnlineClient(
        ADDRESS, CLIENT_ID, SecretBytes(CONNECTION_KEY), transport=lambda *_: Answer(OK, b"")
    )
    guard = "2cf13667-ea72-4013-9dd6-155e89c5a28f"
    assert client._open(response.SerializeToString(), guard, bytes(32)).reveal() == b"test secret"


def bound(client_id: str, *, entry: bytes | None) -> SecretBytes:
    """What a guest of this client id makes of an answer with this binding."""

    def transport(_address: object, _path: str, request: bytes) -> Answer:
        guard = keybroker_pb2.OnlineSecretRequest.FromString(request).SecretRequests[0].Guid
        entries = [(guard.encode(), KEY)] + ([] if entry is None else [(BINDING_NAME.encode(), entry)])
        plain = struct.pack("<Q", len(entries)) + b"".join(
            struct.pack("<Q", len(part)) + part for pair in entries for part in pair
        )
        sealed = AESGCM(CONNECTION_KEY).encrypt(bytes(12), plain, None)
        response = keybroker_pb2.OnlineSecretResponse(
            Payload=base64.b64encode(sealed).decode(), IV=base64.b64encode(bytes(12)).decode()
        )
        return Answer(OK, response.SerializeToString())

    client = OnlineClient(ADDRESS, client_id, SecretBytes(CONNECTION_KEY), rng=bytes, transport=transport)
    return client.get_secret("key", "key_id1")


BINDS = "2cf13667-ea72-8013-9dd6-155e89c5a28f"
GUARD = "00000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize("client_id", [CLIENT_ID, BINDS])
def test_an_answer_bound_to_its_request(client_id: str) -> None:
    asked = request_digest(client_id, [(GUARD, "binary", "key", "key_id1", "", "")])
    assert bound(client_id, entry=asked).reveal() == KEY


@pytest.mark.parametrize("client_id", [CLIENT_ID, BINDS])
def test_an_answer_bound_to_another_request(client_id: str) -> None:
    other = request_digest(client_id, [(GUARD, "binary", "key", "key_id2", "", "")])
    for entry in (other, b"", bytes(32)):
        with pytest.raises(VerificationError) as caught:
            bound(client_id, entry=entry)
        assert caught.value.code == "kbc.binding"


def test_an_answer_without_the_binding_that_was_announced() -> None:
    """A broker that binds says so in the client id, which came with the launch secret: no way back."""
    with pytest.raises(VerificationError) as caught:
        bound(BINDS, entry=None)
    assert caught.value.code == "kbc.binding"
    assert bound(CLIENT_ID, entry=None).reveal() == KEY


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("127.0.0.1:44444", ("127.0.0.1", 44444)),
        ("kbs.example:1", ("kbs.example", 1)),
        ("[::1]:9", ("::1", 9)),
    ],
)
def test_addresses(uri: str, address: tuple[str, int]) -> None:
    assert parse_address(uri) == address


@pytest.mark.parametrize("uri", ["", "host", "host:", ":1", "host:0", "host:65536", "host:1x", "host:²"])
def test_bad_addresses(uri: str) -> None:
    with pytest.raises(DecodeError) as caught:
        parse_address(uri)
    assert caught.value.code == "kbc.params"


@pytest.mark.parametrize(
    "connection",
    [
        b"",
        b"{}",
        b'{"client_id":"x","key":"AAAA"}',
        b'{"client_id":"2cf13667-ea72-4013-9dd6-155e89c5a28f","key":"AAAA"}',
        b'{"client_id":"2cf13667-ea72-4013-9dd6-155e89c5a28f","key":"planted!"}',
        b'{"client_id":5,"key":"AAAA"}',
    ],
)
def test_bad_connections(connection: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        parse_connection(SecretBytes(connection))
    assert caught.value.message.startswith("Failed to get injected connection")
    assert "planted" not in str(caught.value)
    assert caught.value.__cause__ is None
