# SPDX-License-Identifier: Apache-2.0
"""The registry client against a scripted server: authentication, redirects, retries, resumed downloads."""

from __future__ import annotations

import base64
import datetime
import json
import os
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagekit import Pieces
from scripted import Answer, Request, Script, serve, unused_port

from sealpod.errors import (
    AccessError,
    DecodeError,
    NotFoundError,
    OperationError,
    RefusedError,
    SealpodError,
    UnavailableError,
    VerificationError,
)
from sealpod.image.ports import RawManifest
from sealpod.oci import mediatypes
from sealpod.oci.descriptor import Descriptor
from sealpod.oci.digest import Digest
from sealpod.registry.challenge import parse_challenges
from sealpod.registry.client import ATTEMPTS, Credentials, RegistryClient
from sealpod.registry.connection import Connections, endpoint_of
from sealpod.registry.http import RegistrySink, RegistrySource
from sealpod.secret import SecretBytes

DATA = os.urandom(100_000)
BLOB = Descriptor("application/octet-stream", Digest.of(DATA), len(DATA))
MANIFEST = b'{"schemaVersion":2}'
ACCOUNT = Credentials("user", SecretBytes(b"planted-password"))


class Pauses(list[float]):
    """A sleep that only remembers."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def client(
    host: str,
    *,
    credentials: Credentials | None = None,
    pauses: Pauses | None = None,
    connections: Connections | None = None,
) -> RegistryClient:
    return RegistryClient(
        host,
        "t/app",
        credentials=credentials,
        sleep=pauses if pauses is not None else Pauses(),
        connections=connections,
    )


def read_all(source: RegistrySource, descriptor: Descriptor = BLOB) -> bytes:
    stream = source.blob(descriptor)
    try:
        return b"".join(iter(lambda: stream.read(30_000), b""))
    finally:
        stream.close()


def fail(
    script: Script, act: Callable[[RegistryClient], object], kind: type[SealpodError], code: str
) -> SealpodError:
    with serve(script) as server, pytest.raises(kind) as caught:
        act(client(server.host))
    assert caught.value.code == code
    return caught.value


def get_manifest(registry: RegistryClient) -> RawManifest:
    return RegistrySource(registry).manifest("v1")


# Manifests.


def test_manifest() -> None:
    headers = {
        "Content-Type": f"{mediatypes.OCI_MANIFEST}; charset=utf-8",
        "Docker-Content-Digest": "sha256:lie",
    }
    with serve(lambda _: Answer(200, MANIFEST, headers)) as server:
        assert get_manifest(client(server.host)) == RawManifest(mediatypes.OCI_MANIFEST, MANIFEST)
    [request] = server.requests
    assert request.path == "/v2/t/app/manifests/v1"
    for media_type in (*mediatypes.MANIFESTS, *mediatypes.INDEXES):
        assert media_type in request.headers["accept"]


def test_missing_manifest() -> None:
    error = fail(lambda _: Answer(404, b"{}"), get_manifest, NotFoundError, "image.not-found")
    assert "t/app at v1" in error.message
    assert error.remedy


@pytest.mark.parametrize("declared", [True, False])
def test_a_manifest_without_end(declared: bool) -> None:
    body = bytes((4 << 20) + 1)
    script = lambda _: Answer(200, body, {} if declared else {"Transfer-Encoding": "identity"})  # noqa: E731
    fail(script, get_manifest, DecodeError, "registry.answer")


def test_the_registrys_words_reach_the_reader() -> None:
    body = json.dumps({"errors": [{"code": "DENIED", "message": "not for you"}]}).encode()
    error = fail(lambda _: Answer(403, body), get_manifest, AccessError, "registry.denied")
    assert "DENIED not for you" in error.message
    body = json.dumps({"errors": [{"code": "X\x1b[2J", "message": []}]}).encode()
    error = fail(lambda _: Answer(400, body), get_manifest, OperationError, "registry.status")
    assert "\x1b" not in error.message


# Authentication.


CHALLENGES: dict[str, list[tuple[str, dict[str, str]]]] = {
    'Bearer realm="https://a/t",service="s",scope="x:y:pull,push"': [
        ("bearer", {"realm": "https://a/t", "service": "s", "scope": "x:y:pull,push"})
    ],
    'Basic realm="r1"': [("basic", {"realm": "r1"})],
    "Basic": [("basic", {})],
    'Negotiate, Basic realm="a \\"b\\"", Bearer realm=x': [
        ("negotiate", {}),
        ("basic", {"realm": 'a "b"'}),
        ("bearer", {"realm": "x"}),
    ],
    "": [],
    '="': [],
}


@pytest.mark.parametrize(("header", "expected"), CHALLENGES.items())
def test_challenges(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(found.scheme, dict(found.parameters)) for found in parse_challenges(header)] == expected


@given(st.text(max_size=100))
def test_any_challenge_is_parsed_or_dropped(header: str) -> None:
    parse_challenges(header)


def token_server(expected: str) -> Script:
    """A registry whose token service stands beside it; tokens count up, so that each is seen to be used."""

    def script(request: Request) -> Answer:
        if request.path.startswith("/token"):
            assert request.headers.get("authorization", "") == expected
            return Answer(200, b'{"token":"t0ken"}')
        if request.headers.get("authorization") != "Bearer t0ken":
            realm = f'Bearer realm="http://{request.headers["host"]}/token?x=1",service="reg"'
            return Answer(401, b"{}", {"WWW-Authenticate": realm})
        return Answer(200, MANIFEST)

    return script


@pytest.mark.parametrize("account", [None, ACCOUNT])
def test_token(account: Credentials | None) -> None:
    expected = "Basic " + base64.b64encode(b"user:planted-password").decode() if account else ""
    with serve(token_server(expected)) as server:
        registry = client(server.host, credentials=account)
        assert get_manifest(registry).body == MANIFEST
        assert get_manifest(registry).body == MANIFEST
    paths = [request.path for request in server.requests]
    assert paths[1] == "/token?x=1&scope=repository%3At%2Fapp%3Apull&service=reg"
    assert len(paths) == 4  # refused, token, manifest, manifest: the token is kept


def test_basic() -> None:
    expected = ACCOUNT.basic()

    def script(request: Request) -> Answer:
        good = request.headers.get("authorization") == expected
        return Answer(200, MANIFEST) if good else Answer(401, b"", {"WWW-Authenticate": 'Basic realm="r1"'})

    with serve(script) as server:
        assert get_manifest(client(server.host, credentials=ACCOUNT)).body == MANIFEST
        wrong = Credentials("user", SecretBytes(b"planted-wrong"))
        for credentials in (None, wrong):
            with pytest.raises(AccessError) as caught:
                get_manifest(client(server.host, credentials=credentials))
            assert caught.value.code == "registry.unauthorized"
            assert "planted" not in caught.value.one_line()
    assert len(server.requests) == 2 + 1 + 2


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"token":1}', b'{"token":"a\\nb"}', b"x"])
def test_a_token_service_that_gives_none(body: bytes) -> None:
    def script(request: Request) -> Answer:
        if request.path.startswith("/token"):
            return Answer(200, body)
        return Answer(
            401, b"", {"WWW-Authenticate": f'Bearer realm="http://{request.headers["host"]}/token"'}
        )

    with serve(script) as server, pytest.raises(SealpodError):
        get_manifest(client(server.host))


# Redirects.


def test_another_host_does_not_get_the_authorization() -> None:
    with serve(lambda _: Answer(200, DATA)) as storage:

        def script(request: Request) -> Answer:
            if request.path.startswith("/token"):
                return Answer(200, b'{"access_token":"t0ken"}')
            if "authorization" not in request.headers:
                return Answer(
                    401, b"", {"WWW-Authenticate": f'Bearer realm="http://{request.headers["host"]}/token"'}
                )
            return Answer(307, b"moved", {"Location": f"http://{storage.host}/bucket?sig=1"})

        with serve(script) as server:
            assert read_all(RegistrySource(client(server.host))) == DATA
    [request] = storage.requests
    assert "authorization" not in request.headers
    assert request.path == "/bucket?sig=1"


def test_redirects_end() -> None:
    fail(
        lambda _: Answer(302, b"", {"Location": "/again"}), get_manifest, OperationError, "registry.redirect"
    )


def test_a_redirect_to_plain_http_elsewhere() -> None:
    script = lambda _: Answer(307, b"", {"Location": "http://storage.example/x"})  # noqa: E731
    fail(script, get_manifest, RefusedError, "registry.plain-http")


@pytest.mark.parametrize("location", ["ftp://x/y", "http://u:p@x/", "http://x:99999999/"])
def test_a_redirect_to_no_url(location: str) -> None:
    fail(lambda _: Answer(307, b"", {"Location": location}), get_manifest, DecodeError, "registry.url")


# Retries.


def after(count: int, trouble: Answer, then: Answer) -> Script:
    seen: list[Request] = []

    def script(request: Request) -> Answer:
        seen.append(request)
        return trouble if len(seen) <= count else then

    return script


@pytest.mark.parametrize(
    "trouble", [Answer(503), Answer(429), Answer(500), Answer(reset=True)], ids=["503", "429", "500", "reset"]
)
def test_passing_trouble(trouble: Answer) -> None:
    pauses = Pauses()
    with serve(after(ATTEMPTS - 1, trouble, Answer(200, MANIFEST))) as server:
        assert get_manifest(client(server.host, pauses=pauses)).body == MANIFEST
    assert pauses == [0.2, 0.4, 0.8]


@pytest.mark.parametrize(
    ("trouble", "code"), [(Answer(503), "registry.busy"), (Answer(reset=True), "registry.unreachable")]
)
def test_lasting_trouble(trouble: Answer, code: str) -> None:
    with serve(lambda _: trouble) as server, pytest.raises(UnavailableError) as caught:
        get_manifest(client(server.host))
    assert caught.value.code == code
    assert len(server.requests) == ATTEMPTS


def test_retry_after_is_followed_within_reason() -> None:
    pauses = Pauses()
    for value in ("1", "3600", "soon"):
        with serve(after(1, Answer(429, b"", {"Retry-After": value}), Answer(200, MANIFEST))) as server:
            get_manifest(client(server.host, pauses=pauses))
    assert pauses == [1.0, 5.0, 0.2]


def test_a_kept_connection_that_was_closed() -> None:
    """The server closes after each answer without saying so; the next request goes over a new connection."""
    with serve(lambda _: Answer(200, MANIFEST, cut=len(MANIFEST))) as server:
        pauses = Pauses()
        registry = client(server.host, pauses=pauses)
        for _ in range(3):
            assert get_manifest(registry).body == MANIFEST
    assert pauses == []


# Blobs.


def ranged(request: Request, data: bytes, cut: int | None = None) -> Answer:
    start = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
    if start >= len(data):
        return Answer(416)
    headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
    return Answer(206 if start else 200, data[start:], headers, cut)


@pytest.mark.parametrize("step", [1, 29_999, 30_000, 99_999])
def test_a_broken_download_is_resumed(step: int) -> None:
    data = DATA[:50] if step == 1 else DATA
    blob = Descriptor("x", Digest.of(data), len(data))
    with serve(lambda request: ranged(request, data, cut=step)) as server:
        assert read_all(RegistrySource(client(server.host)), blob) == data
    starts = [request.headers.get("range") for request in server.requests]
    assert starts[:3] == [None, *(f"bytes={step * turn}-" for turn in (1, 2) if step * turn < len(data))][:3]


def test_a_server_without_ranges_begins_again() -> None:
    with serve(after(1, Answer(200, DATA, cut=60_000), Answer(200, DATA))) as server:
        assert read_all(RegistrySource(client(server.host))) == DATA


def test_a_server_that_resumes_elsewhere() -> None:
    wrong = Answer(206, DATA[10:], {"Content-Range": "bytes 10-99/100"})
    script = after(1, Answer(200, DATA, cut=60_000), wrong)
    fail(script, lambda registry: read_all(RegistrySource(registry)), OperationError, "registry.range")


def test_a_download_that_never_continues() -> None:
    with (
        serve(lambda request: ranged(request, DATA, cut=0)) as server,
        pytest.raises(UnavailableError) as caught,
    ):
        read_all(RegistrySource(client(server.host)))
    assert caught.value.code == "registry.unreachable"
    assert len(server.requests) == 6


def test_missing_blob() -> None:
    script = lambda _: Answer(404)  # noqa: E731
    fail(script, lambda registry: RegistrySource(registry).blob(BLOB), NotFoundError, "image.blob-not-found")


# Reaching it.


def test_nobody_listens() -> None:
    with pytest.raises(UnavailableError) as caught:
        get_manifest(client(f"127.0.0.1:{unused_port()}"))
    assert caught.value.code == "registry.unreachable"
    assert "connection refused" in caught.value.message
    assert caught.value.remedy


def test_a_name_that_does_not_resolve() -> None:
    with pytest.raises(UnavailableError, match="not reachable"):
        get_manifest(client("registry.invalid"))


def test_a_server_that_is_no_registry() -> None:
    error = fail(lambda _: Answer(301, b"", {}), get_manifest, OperationError, "registry.status")
    assert "301" in error.message


def test_tls_to_a_plain_server() -> None:
    with serve(lambda _: Answer(200, MANIFEST)) as server, pytest.raises(RefusedError) as caught:
        get_manifest(client(server.host, connections=Connections(plain_loopback=False)))
    assert caught.value.code == "registry.plain-http"
    assert "insecure" in caught.value.remedy


def test_a_plain_server_that_is_listed() -> None:
    with serve(lambda _: Answer(200, MANIFEST)) as server:
        for listed in (server.host, "127.0.0.1"):
            connections = Connections((listed,), plain_loopback=False)
            assert get_manifest(client(server.host, connections=connections)).body == MANIFEST


def test_an_untrusted_certificate(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_self_signed(tmp_path))
    with serve(lambda _: Answer(200), context) as server, pytest.raises(VerificationError) as caught:
        get_manifest(client(server.host, connections=Connections(plain_loopback=False)))
    assert caught.value.code == "registry.certificate"


def _self_signed(directory: Path) -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    path = directory / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    return str(path)


def test_the_hub_has_another_host() -> None:
    assert client("docker.io").url("x").startswith("https://registry-1.docker.io/v2/")
    assert client("localhost:5000").url("x").startswith("http://localhost:5000/v2/")
    assert client("ghcr.io").url("x").startswith("https://ghcr.io/v2/")
    assert endpoint_of("https://[::1]:5000/x").authority == "[::1]:5000"


# Pushing.


def registry_script(uploads: list[bytes], *, absolute: bool = False, spoil: int = 0) -> Script:
    def script(request: Request) -> Answer:
        prefix = f"http://{request.headers['host']}" if absolute else ""
        if request.method == "POST":
            return Answer(202, b"", {"Location": f"{prefix}/upload/1?_state=abc"})
        if request.method == "PATCH":
            uploads.append(request.body)
            return Answer(spoil or 202, b"", {"Location": f"{prefix}/upload/1?_state=def"})
        if request.method == "PUT":
            return Answer(201)
        return Answer(202 if request.method == "DELETE" else 404)

    return script


@pytest.mark.parametrize("absolute", [True, False])
def test_push(absolute: bool) -> None:
    uploads: list[bytes] = []
    with serve(registry_script(uploads, absolute=absolute)) as server:
        sink = RegistrySink(client(server.host))
        assert not sink.has_blob(BLOB)
        assert sink.put_blob(Pieces(DATA)) == (Digest.of(DATA), len(DATA))
        sink.put_manifest("v1", RawManifest(mediatypes.OCI_MANIFEST, MANIFEST))
    assert uploads == [DATA]
    asked = [(request.method, request.path) for request in server.requests]
    digest = str(Digest.of(DATA)).replace(":", "%3A")
    assert asked[1:] == [
        ("POST", "/v2/t/app/blobs/uploads/"),
        ("PATCH", "/upload/1?_state=abc"),
        ("PUT", f"/upload/1?_state=def&digest={digest}"),
        ("PUT", "/v2/t/app/manifests/v1"),
    ]
    assert server.requests[-1].headers["content-type"] == mediatypes.OCI_MANIFEST


def test_a_failed_push_is_cancelled() -> None:
    with serve(registry_script([], spoil=507)) as server, pytest.raises(OperationError):
        RegistrySink(client(server.host)).put_blob(Pieces(DATA))
    assert server.requests[-1].method == "DELETE"


def test_a_stream_that_fails_is_not_pushed() -> None:
    class Broken(Pieces):
        def read(self, size: int, /) -> bytes:
            raise VerificationError("damaged", code="image.blob-digest")

    with serve(registry_script([])) as server, pytest.raises(VerificationError, match="damaged"):
        RegistrySink(client(server.host)).put_blob(Broken(b""))
    assert "PUT" not in [request.method for request in server.requests]
