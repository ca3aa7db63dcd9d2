# SPDX-License-Identifier: Apache-2.0
"""AMD's service is played by a server on loopback; nothing here asks AMD's."""

from __future__ import annotations

import http.client
import socket
import ssl
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from sealpod.errors import (
    DecodeError,
    NotFoundError,
    SealpodError,
    UnavailableError,
    UsageError,
    VerificationError,
)
from sealpod.platform.kds import (
    AUTHORITY_PLACES,
    CEK_HOST,
    SYSTEM_CACHE,
    KeyDistributionService,
    default_cache_dir,
)
from sealpod.platform.kdshttp import MAX_WAIT, connect_with_tls
from sealpod.sev import cert
from sealpod.sev.authority import Authority, Generation
from sealpod.sev.ca import make_ca
from sealpod.sev.cert import Algorithm, Certificate, Usage
from sealpod.sev.chainfile import PlatformChain

DSA = Algorithm.ECDSA_SHA256
IDENTIFIER = bytes(range(64))
CEK_PATH = "/cek/id/" + IDENTIFIER.hex().upper()
AMD = Path(__file__).resolve().parents[4] / "shared" / "data" / "amd"
NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    claimed: int | None = None


class Service:
    """A server on loopback that answers what it was told, in order, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.asked: list[tuple[str, str]] = []
        self.slept: list[float] = []
        self.said: list[str] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service.asked.append((self.headers["Host"].partition(":")[0], self.path))
                queue = service.answers.get(self.path, [Answer(404)])
                answer = queue.pop(0) if len(queue) > 1 else queue[0]
                self.send_response(answer.status)
                size = len(answer.body) if answer.claimed is None else answer.claimed
                for name, value in {"Content-Length": str(size), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def connect(self, host: str) -> http.client.HTTPConnection:
        """To the server, whatever host is asked for; the request still names that one."""
        return self.redirected(http.client.HTTPConnection(host, timeout=20))

    def redirected(self, connection: http.client.HTTPConnection) -> http.client.HTTPConnection:
        connection._create_connection = (
            lambda *_: socket.create_connection(  # type: ignore[attr-defined]
                self._server.server_address[:2]
            )
        )
        return connection

    def wrap(self, context: ssl.SSLContext) -> None:
        """Speak TLS from now on. Each connection has its own handshake, which may fail."""
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def client(self, cache: Path | None, *, offline: bool = False) -> KeyDistributionService:
        return KeyDistributionService(
            cache=None if cache is None else str(cache),
            offline=offline,
            connect=self.connect,
            sleep=self.slept.append,
            clock=lambda: NOW,
            progress=self.said.append,
        )


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.close()


@dataclass(frozen=True)
class Chip:
    exported: Certificate
    signed: Certificate
    authority: Authority


@pytest.fixture(scope="module")
def chip() -> Chip:
    key, ark, ask = ec.generate_private_key(ec.SECP384R1()), new_rsa(), new_rsa()
    exported = cert.make(key.public_key(), Usage.CEK, DSA)
    authority = Authority(
        make_ca(ask.public_key(), Usage.ASK, b"S" * 16, b"A" * 16, ark),
        make_ca(ark.public_key(), Usage.ARK, b"A" * 16, b"A" * 16, ark),
    )
    return Chip(exported, cert.sign(exported, ask, Usage.ASK, Algorithm.RSA_SHA256, 0), authority)


def new_rsa() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def code_of(call: Callable[[], object], family: type[SealpodError]) -> str:
    with pytest.raises(family) as caught:
        call()
    return caught.value.code


def test_a_cek_is_fetched_once_and_kept(service: Service, chip: Chip, tmp_path: Path) -> None:
    cache = tmp_path / "kds"
    service.answers[CEK_PATH] = [Answer(body=chip.signed.encode())]
    for _ in range(2):
        assert service.client(cache).signed_cek(IDENTIFIER, chip.exported) == chip.signed
    assert service.client(cache, offline=True).signed_cek(IDENTIFIER, chip.exported) == chip.signed
    assert service.asked == [(CEK_HOST, CEK_PATH)]
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    (kept,) = cache.iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o644
    assert kept.read_bytes() == chip.signed.encode()


def test_without_a_cache_every_call_asks(service: Service, chip: Chip) -> None:
    service.answers[CEK_PATH] = [Answer(body=chip.signed.encode())]
    for _ in range(2):
        service.client(None).signed_cek(IDENTIFIER, chip.exported)
    assert len(service.asked) == 2


def test_a_cache_that_cannot_be_written_is_done_without(service: Service, chip: Chip, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    service.answers[CEK_PATH] = [Answer(body=chip.signed.encode())]
    client = service.client(tmp_path / "file" / "kds")
    assert client.signed_cek(IDENTIFIER, chip.exported) == chip.signed


@pytest.mark.parametrize("kept", [b"", b"noise", b"x" * 100_000, "cut", "other"])
def test_what_the_cache_has_is_checked(
    kept: bytes | str, service: Service, chip: Chip, tmp_path: Path
) -> None:
    """A damaged entry is replaced; another chip's is not believed."""
    if isinstance(kept, str):
        other = cert.make(ec.generate_private_key(ec.SECP384R1()).public_key(), Usage.CEK, DSA)
        kept = chip.signed.encode()[:-1] if kept == "cut" else other.encode()
    path = tmp_path / f"cek-{IDENTIFIER.hex()}.cert"
    path.write_bytes(kept)
    service.answers[CEK_PATH] = [Answer(body=chip.signed.encode())]
    offline = service.client(tmp_path, offline=True)
    assert code_of(lambda: offline.signed_cek(IDENTIFIER, chip.exported), UnavailableError) == "kds.offline"
    assert f"in the cache ({tmp_path}) is not taken" in service.said[0]
    assert service.client(tmp_path).signed_cek(IDENTIFIER, chip.exported) == chip.signed
    assert path.read_bytes() == chip.signed.encode()


def test_offline_asks_nobody_and_says_what_to_do(service: Service, chip: Chip, tmp_path: Path) -> None:
    client = service.client(tmp_path, offline=True)
    with pytest.raises(UnavailableError) as caught:
        client.signed_cek(IDENTIFIER, chip.exported)
    assert caught.value.code == "kds.offline"
    assert "--offline" in caught.value.remedy
    assert "full chain" in caught.value.remedy
    assert code_of(lambda: client.authority(Generation.ROME), UnavailableError) == "kds.offline"
    assert service.asked == []


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ({}, 5.0),
        ({"Retry-After": "2"}, 2.0),
        ({"Retry-After": "999999999"}, MAX_WAIT),
        ({"Retry-After": "Tue, 14 Nov 2023 22:13:30 GMT"}, 10.0),
        ({"Retry-After": "Tue, 14 Nov 2023 22:13:10 GMT"}, 0.0),
        ({"Retry-After": "soon"}, 5.0),
        ({"Retry-After": "-7"}, 5.0),
    ],
)
def test_a_busy_service_is_asked_again(
    header: dict[str, str], wait: float, service: Service, chip: Chip
) -> None:
    service.answers[CEK_PATH] = [
        Answer(429, b"slow down", header),
        Answer(503, b"", header),
        Answer(body=chip.signed.encode()),
    ]
    assert service.client(None).signed_cek(IDENTIFIER, chip.exported) == chip.signed
    assert service.slept == [wait, wait]
    assert any("429" in line for line in service.said)


def test_three_tries_are_all(service: Service, chip: Chip) -> None:
    service.answers[CEK_PATH] = [Answer(500)]
    client = service.client(None)
    code = code_of(lambda: client.signed_cek(IDENTIFIER, chip.exported), UnavailableError)
    assert (code, len(service.asked), service.slept) == ("kds.unreachable", 3, [5.0, 5.0])


def test_a_broken_connection_is_another_try(service: Service, chip: Chip) -> None:
    whole = chip.signed.encode()
    service.answers[CEK_PATH] = [Answer(body=whole[:99], claimed=len(whole)), Answer(body=whole)]
    assert service.client(None).signed_cek(IDENTIFIER, chip.exported) == chip.signed
    assert len(service.asked) == 2


def test_nobody_listening(service: Service, chip: Chip) -> None:
    def refuse(host: str) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(host)

        def create(*_: object) -> socket.socket:
            raise ConnectionRefusedError(111, "Connection refused")

        connection._create_connection = create  # type: ignore[attr-defined]
        return connection

    client = replace(service.client(None), connect=refuse)
    assert (
        code_of(lambda: client.signed_cek(IDENTIFIER, chip.exported), UnavailableError) == "kds.unreachable"
    )
    assert len(service.slept) == 2


def test_an_unknown_chip_is_not_asked_for_again(service: Service, chip: Chip) -> None:
    client = service.client(None)
    assert code_of(lambda: client.signed_cek(IDENTIFIER, chip.exported), NotFoundError) == "kds.unknown"
    assert len(service.asked) == 1


def test_redirects_are_not_followed(service: Service, chip: Chip) -> None:
    service.answers[CEK_PATH] = [Answer(302, b"", {"Location": "http://127.0.0.1/elsewhere"})]
    client = service.client(None)
    assert code_of(lambda: client.signed_cek(IDENTIFIER, chip.exported), UnavailableError) == "kds.moved"
    assert len(service.asked) == 1


def test_an_answer_that_is_no_cek_of_this_chip_is_refused(
    service: Service, chip: Chip, tmp_path: Path
) -> None:
    stranger = cert.make(ec.generate_private_key(ec.SECP384R1()).public_key(), Usage.CEK, DSA)
    as_pek = replace(chip.signed, usage=Usage.PEK)
    refused: list[tuple[bytes, type[SealpodError], str]] = [
        (b"<html>", DecodeError, "kds.answer"),
        (bytes(1 << 20), DecodeError, "kds.answer"),
        (chip.signed.encode() + b"\0", DecodeError, "kds.answer"),
        (as_pek.encode(), DecodeError, "kds.answer"),
        (chip.exported.encode(), DecodeError, "kds.answer"),
        (stranger.encode(), VerificationError, "kds.other-chip"),
    ]
    for body, family, code in refused:
        service.answers[CEK_PATH] = [Answer(body=body)]
        client = service.client(tmp_path)
        assert code_of(lambda c=client: c.signed_cek(IDENTIFIER, chip.exported), family) == code  # type: ignore[misc]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 32, 63, 128])
def test_an_identifier_has_64_bytes(size: int, service: Service, chip: Chip) -> None:
    client = service.client(None)
    assert code_of(lambda: client.signed_cek(bytes(size), chip.exported), UsageError) == "kds.identifier"
    assert service.asked == []


def test_a_chain_with_a_signed_cek_needs_nobody(service: Service, chip: Chip) -> None:
    exported = PlatformChain(chip.exported, chip.exported, chip.exported, chip.exported)
    signed = replace(exported, cek=chip.signed)
    assert service.client(None, offline=True).signed_chain(IDENTIFIER, signed) == signed
    service.answers[CEK_PATH] = [Answer(body=chip.signed.encode())]
    assert service.client(None).signed_chain(IDENTIFIER, exported) == signed


def test_an_authority_must_be_the_pinned_one(service: Service, chip: Chip, tmp_path: Path) -> None:
    for _, directory in AUTHORITY_PLACES:
        service.answers[directory + "ask_ark_milan.cert"] = [Answer(body=chip.authority.encode())]
    client = service.client(tmp_path)
    assert code_of(lambda: client.authority(Generation.MILAN), VerificationError) == "kds.pin"
    assert list(tmp_path.iterdir()) == []
    for _, directory in AUTHORITY_PLACES:
        service.answers[directory + "ask_ark_milan.cert"] = [Answer(body=b"<html>")]
    assert code_of(lambda: client.authority(Generation.MILAN), DecodeError) == "kds.answer"


def pair(generation: str) -> bytes:
    if not AMD.is_dir():
        pytest.skip("AMD's certificates are not there (../shared/data/amd)")
    return b"".join((AMD / generation / f"{name}.cert").read_bytes() for name in ("ask", "ark"))


def test_amds_authorities_come_from_where_amd_has_them_now_or_had_them(
    service: Service, tmp_path: Path
) -> None:
    (new_host, new), (old_host, old) = AUTHORITY_PLACES
    service.answers[new + "ask_ark_rome.cert"] = [Answer(body=pair("rome"))]
    service.answers[old + "ask_ark_turin.cert"] = [Answer(body=pair("turin"))]
    client = service.client(tmp_path)
    assert client.authority(Generation.ROME).generation is Generation.ROME
    assert client.authority(Generation.TURIN).encode() == pair("turin")
    assert [host for host, _ in service.asked] == [new_host, new_host, old_host]
    offline = service.client(tmp_path, offline=True)
    assert offline.authority(Generation.TURIN).generation is Generation.TURIN


def test_the_generation_of_a_cek_is_found_by_trying(service: Service, chip: Chip, tmp_path: Path) -> None:
    for generation in Generation:
        path = AUTHORITY_PLACES[0][1] + generation.pair_file
        service.answers[path] = [Answer(body=pair(generation.value))]
    client = service.client(tmp_path)
    naples = Certificate.decode((AMD / "naples" / "cek.cert").read_bytes())
    assert client.authority_of(naples).generation is Generation.NAPLES
    assert len(service.asked) == 1
    assert code_of(lambda: client.authority_of(chip.signed), NotFoundError) == "ca.no-issuer"
    assert code_of(lambda: client.authority_of(chip.exported), NotFoundError) == "ca.unsigned-cek"
    assert len(service.asked) == 5


def test_the_naples_file_as_amd_first_published_it(service: Service) -> None:
    """Its ARK stops after the modulus."""
    short = pair("naples")[:832] + (AMD / "naples" / "ark.cert.bad").read_bytes()
    service.answers[AUTHORITY_PLACES[0][1] + "ask_ark_naples.cert"] = [Answer(body=short)]
    assert service.client(None).authority(Generation.NAPLES).encode() == pair("naples")


@pytest.fixture
def tls(service: Service, tmp_path: Path) -> ssl.SSLContext:
    """The service over TLS, with a certificate for AMD's name that only this context trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2120, 1, 1, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(CEK_HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )
    pem = tmp_path / "server.pem"
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem.write_bytes(certificate.public_bytes(Encoding.PEM) + secret)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    service.wrap(server)
    return ssl.create_default_context(cadata=certificate.public_bytes(Encoding.PEM).decode())


def over_tls(service: Service, context: ssl.SSLContext) -> Callable[[str], http.client.HTTPConnection]:
    def connect(host: str) -> http.client.HTTPConnection:
        return service.redirected(http.client.HTTPSConnection(host, timeout=20, context=context))

    return connect


def test_over_tls(service: Service, chip: Chip, tls: ssl.SSLContext) -> None:
    service.answers[CEK_PATH] = [Answer(body=chip.signed.encode())]
    client = replace(service.client(None), connect=over_tls(service, tls))
    assert client.signed_cek(IDENTIFIER, chip.exported) == chip.signed


def test_a_server_that_is_not_amds_is_not_asked(service: Service, chip: Chip, tls: ssl.SSLContext) -> None:
    """An authority nobody trusts, and a trusted certificate for another name."""
    service.answers[CEK_PATH] = [Answer(body=chip.signed.encode())]
    distrusting = over_tls(service, ssl.create_default_context())
    other_name = over_tls(service, tls)
    for connect in (distrusting, lambda host: other_name("elsewhere.example")):
        client = replace(service.client(None), connect=connect)
        code = code_of(lambda c=client: c.signed_cek(IDENTIFIER, chip.exported), UnavailableError)  # type: ignore[misc]
        assert code == "kds.tls"
    assert service.asked == []
    assert service.slept == []


def test_the_default_connection_verifies_the_server() -> None:
    connection = connect_with_tls("localhost")
    assert isinstance(connection, http.client.HTTPSConnection)
    context = connection._context  # type: ignore[attr-defined]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert connection.port == 443


@pytest.mark.parametrize(
    ("environ", "uid", "expected"),
    [
        ({"XDG_CACHE_HOME": "/x"}, 0, SYSTEM_CACHE),
        ({"XDG_CACHE_HOME": "/x"}, 5, "/x/sealpod/kds"),
        ({"HOME": "/h"}, 5, "/h/.cache/sealpod/kds"),
        ({"XDG_CACHE_HOME": "rel", "HOME": "/h"}, 5, "/h/.cache/sealpod/kds"),
    ],
)
def test_where_downloads_are_kept(environ: dict[str, str], uid: int, expected: str) -> None:
    assert default_cache_dir(environ, uid=uid) == expected
