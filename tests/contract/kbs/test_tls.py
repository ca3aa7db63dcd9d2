# SPDX-License-Identifier: Apache-2.0
"""TLS and mutual TLS on both listeners: who is answered, who is not, and what a renewal changes."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from brokerkit import Answer, Authority, bundle, channel, private, request

from sealpod.errors import SealpodError, UsageError
from sealpod.kbs.core.audit import Decision, Entry
from sealpod.kbs.server import RunningBroker, ServerConfig, serve
from sealpod.kbs.server.config import AdminConfig, TlsFiles

TOKEN = "t" * 40


@pytest.fixture(scope="module")
def authorities() -> dict[str, Authority]:
    return {name: Authority(name) for name in ("server", "clients", "strangers")}


class Files:
    """TLS files in a directory, that a test may exchange."""

    def __init__(self, directory: Path, authorities: dict[str, Authority]) -> None:
        self._directory = directory
        self._authorities = authorities
        self.renew("first")
        self.trust("clients")

    def renew(self, name: str) -> None:
        certificate, key = self._authorities["server"].issue(name)
        self.path("key", key)
        self.path("cert", certificate)

    def trust(self, name: str) -> None:
        self.path("ca", self._authorities[name].pem)

    def path(self, name: str, data: bytes | None = None) -> str:
        path = self._directory / f"{name}.pem"
        return str(path) if data is None else private(path, data)

    def tls(self, *, clients: bool) -> TlsFiles:
        return TlsFiles(self.path("cert"), self.path("key"), self.path("ca") if clients else None)


@pytest.fixture
def files(tmp_path: Path, authorities: dict[str, Authority]) -> Files:
    return Files(tmp_path, authorities)


class Records:
    """An auditor that remembers."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []

    def record(self, decision: Decision, entry: Entry | None) -> None:
        self.decisions.append(decision)


Start = Callable[..., RunningBroker]


@pytest.fixture
def start(platform: Any, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def started(auditor: Any = None, **options: Any) -> RunningBroker:
            config = ServerConfig(
                "127.0.0.1:0", f"sqlite:///{tmp_path / 'kbs.db'}", (platform.fingerprint,), **options
            )
            return stack.enter_context(serve(config, auditor=auditor))

        yield started


def refused(address: str, platform: Any, *arguments: Any) -> grpc.StatusCode:
    """The status of a call that must not reach the service."""
    with channel(address, *arguments) as link, pytest.raises(grpc.RpcError) as caught:
        bundle(link, platform, timeout=5)
    status: grpc.StatusCode = caught.value.code()
    assert not dict(caught.value.trailing_metadata() or ()), "the service answered"
    return status


def test_a_server_certificate(
    start: Start, files: Files, authorities: dict[str, Authority], platform: Any
) -> None:
    broker = start(tls=files.tls(clients=False))
    with channel(broker.address, authorities["server"].pem) as link:
        assert bundle(link, platform).LaunchId
    # Neither a client that trusts others, nor one that speaks plain HTTP/2, gets anywhere.
    assert refused(broker.address, platform, authorities["strangers"].pem) is grpc.StatusCode.UNAVAILABLE
    assert refused(broker.address, platform) is grpc.StatusCode.UNAVAILABLE


def test_client_certificates(
    start: Start, files: Files, authorities: dict[str, Authority], platform: Any
) -> None:
    records = Records()
    broker = start(records, tls=files.tls(clients=True))
    server = authorities["server"].pem
    with channel(broker.address, server, authorities["clients"].issue("node-1")) as link:
        assert bundle(link, platform).LaunchId
    assert records.decisions[-1].identity == "node-1"
    assert records.decisions[-1].peer.startswith("ipv4:127.0.0.1:")
    before = len(records.decisions)
    for client in (None, authorities["strangers"].issue("node-1"), authorities["server"].issue("node-1")):
        assert refused(broker.address, platform, server, client) is grpc.StatusCode.UNAVAILABLE
    assert len(records.decisions) == before


def test_a_renewed_certificate_is_shown_to_new_connections(
    start: Start, files: Files, authorities: dict[str, Authority], platform: Any
) -> None:
    broker = start(tls=files.tls(clients=False))
    assert shown_name(broker.address, authorities["server"]) == "first"
    with channel(broker.address, authorities["server"].pem) as old:
        bundle(old, platform)
        files.renew("second")
        assert shown_name(broker.address, authorities["server"]) == "second"
        assert bundle(old, platform).LaunchId  # a connection that stands is not cut


@pytest.mark.parametrize("broken", ["garbage", "pair", "gone"])
def test_a_renewal_that_went_wrong_changes_nothing(
    start: Start, files: Files, authorities: dict[str, Authority], platform: Any, broken: str
) -> None:
    broker = start(tls=files.tls(clients=False))
    if broken == "gone":
        os.unlink(files.path("cert"))
    else:
        certificate, _ = authorities["server"].issue("second")
        files.path("cert", b"-----BEGIN CERTIFICATE-----\n" if broken == "garbage" else certificate)
    broker.reload()
    assert shown_name(broker.address, authorities["server"]) == "first"


def test_other_client_authorities_count_at_once(
    start: Start, files: Files, authorities: dict[str, Authority], platform: Any
) -> None:
    broker = start(tls=files.tls(clients=True))
    server = authorities["server"].pem
    files.trust("strangers")
    with channel(broker.address, server, authorities["strangers"].issue("new")) as link:
        assert bundle(link, platform).LaunchId
    gone = authorities["clients"].issue("old")
    assert refused(broker.address, platform, server, gone) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ("other-key", "tls.pair"),
        ("no-certificate", "tls.certificate"),
        ("no-key", "tls.key"),
        ("passphrase", "tls.key"),
        ("open-key", "kbs.file-mode"),
        ("no-file", "kbs.file"),
        ("no-authority", "tls.certificate"),
    ],
)
def test_files_that_cannot_be_used(
    start: Start, files: Files, authorities: dict[str, Authority], wrong: str, code: str
) -> None:
    certificate, key = authorities["server"].issue("x")
    change: dict[str, Callable[[], object]] = {
        "other-key": lambda: files.path("key", key),
        "no-certificate": lambda: files.path("cert", b"nothing\n"),
        "no-key": lambda: files.path("key", certificate),
        "passphrase": lambda: files.path("key", with_passphrase(key)),
        "open-key": lambda: os.chmod(files.path("key"), 0o644),
        "no-file": lambda: os.unlink(files.path("key")),
        "no-authority": lambda: files.path("ca", key),
    }
    change[wrong]()
    with pytest.raises(SealpodError) as caught:
        start(tls=files.tls(clients=True))
    assert caught.value.code == code
    assert "PRIVATE" not in str(caught.value)


def test_the_command(files: Files, authorities: dict[str, Authority], platform: Any, tmp_path: Path) -> None:
    """All of it by options, in a process of its own; SIGHUP and SIGTERM."""
    options = ["--listen", "127.0.0.1:0", "--database", f"sqlite:///{tmp_path / 'kbs.db'}"]
    options += ["--trust-ark", platform.fingerprint, "--ops-listen", "127.0.0.1:0"]
    options += ["--admin-listen", "127.0.0.1:0"]
    options += ["--admin-token-file", private(tmp_path / "tokens", f"ops {TOKEN}\n".encode())]
    for prefix in ("--tls", "--admin-tls"):
        options += [f"{prefix}-cert", files.path("cert"), f"{prefix}-key", files.path("key")]
    options += ["--tls-client-ca", files.path("ca")]
    words = [sys.executable, "-m", "sealpod.cli.main", "kbs", "serve", *options]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        said = ""
        for line in running.stderr:
            said += line
            if line.startswith("listening on "):
                break
        found = dict(re.findall(r"^(listening|admin API|probes and metrics) on (\S+)$", said, re.MULTILINE))
        server = authorities["server"]
        with channel(found["listening"], server.pem, authorities["clients"].issue("node")) as link:
            assert bundle(link, platform).LaunchId
        assert request(found["probes and metrics"], "GET", "/readyz").status == 200
        assert (
            request(found["admin API"], "GET", "/v1/launches", token=TOKEN, context=context(server)).status
            == 200
        )
        files.renew("second")
        running.send_signal(signal.SIGHUP)
        assert shown_name(found["admin API"], server) == "second"
        running.send_signal(signal.SIGTERM)
        rest = running.communicate(timeout=30)[1]
    assert running.returncode == 0
    assert "(TLS)" in said
    assert 'identity="node"' in rest
    assert TOKEN not in said + rest
    assert "PRIVATE KEY" not in said + rest


class TestAdmin:
    """The same for the HTTP listener."""

    @pytest.fixture
    def api(self, start: Start, files: Files, tmp_path: Path) -> Callable[..., RunningBroker]:
        def started(*, clients: bool, token: bool) -> RunningBroker:
            path = private(tmp_path / "tokens", f"ops {TOKEN}\n".encode()) if token else None
            return start(admin=AdminConfig("127.0.0.1:0", path, files.tls(clients=clients)))

        return started

    def test_a_server_certificate(self, api: Any, authorities: dict[str, Authority]) -> None:
        broker = api(clients=False, token=True)
        assert get(broker, context(authorities["server"]), TOKEN).status == 200
        assert get(broker, context(authorities["server"]), "wrong" * 10).status == 401
        with pytest.raises(ssl.SSLCertVerificationError):
            get(broker, context(authorities["strangers"]), TOKEN)

    def test_hosts_are_not_administrators(
        self, start: Start, files: Files, authorities: dict[str, Authority], tmp_path: Path
    ) -> None:
        """Who may launch, and must not be trusted, would read every secret by the certificate it has."""
        both = private(tmp_path / "both.pem", authorities["strangers"].pem + authorities["clients"].pem)
        hosts, owners = files.tls(clients=True), TlsFiles(files.path("cert"), files.path("key"), both)
        with pytest.raises(UsageError) as caught:
            start(tls=hosts, admin=AdminConfig("127.0.0.1:0", None, owners))
        assert caught.value.code == "admin.open"
        tokens = private(tmp_path / "tokens", f"ops {TOKEN}\n".encode())
        start(tls=hosts, admin=AdminConfig("127.0.0.1:0", tokens, owners))

    def test_client_certificates_alone(
        self, api: Any, authorities: dict[str, Authority], tmp_path: Path
    ) -> None:
        broker = api(clients=True, token=False)
        good = context(authorities["server"], authorities["clients"].issue("owner"), tmp_path)
        assert get(broker, good).status == 200
        for client in (None, authorities["strangers"].issue("owner")):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                get(broker, context(authorities["server"], client, tmp_path))

    def test_both(self, api: Any, authorities: dict[str, Authority], tmp_path: Path) -> None:
        broker = api(clients=True, token=True)
        good = context(authorities["server"], authorities["clients"].issue("owner"), tmp_path)
        assert get(broker, good, TOKEN).status == 200
        assert get(broker, good).status == 401

    def test_a_renewal_that_went_wrong_after_one_that_went_well(
        self, api: Any, files: Files, authorities: dict[str, Authority]
    ) -> None:
        broker = api(clients=False, token=True)
        files.renew("second")
        broker.reload()
        files.path("cert", b"garbage")
        files.path("key", b"garbage")
        assert shown_name(broker.admin_address, authorities["server"]) == "second"
        assert get(broker, context(authorities["server"]), TOKEN).status == 200

    def test_renewals(
        self, api: Any, files: Files, authorities: dict[str, Authority], tmp_path: Path
    ) -> None:
        broker = api(clients=True, token=False)
        old = context(authorities["server"], authorities["clients"].issue("old"), tmp_path)
        assert get(broker, old).status == 200
        files.renew("second")
        files.trust("strangers")
        new = context(authorities["server"], authorities["strangers"].issue("new"), tmp_path)
        assert get(broker, new).status == 200
        with pytest.raises((ssl.SSLError, ConnectionError)):
            get(broker, old)
        assert shown_name(broker.admin_address, authorities["server"], new) == "second"


def get(broker: RunningBroker, trusting: ssl.SSLContext, token: str | None = None) -> Answer:
    assert broker.admin_address is not None
    return request(broker.admin_address, "GET", "/v1/secrets", token=token, context=trusting)


def context(
    authority: Authority, client: tuple[bytes, bytes] | None = None, directory: Path | None = None
) -> ssl.SSLContext:
    made = ssl.create_default_context(cadata=authority.pem.decode())
    made.verify_flags &= ~ssl.VERIFY_X509_STRICT  # Python 3.13 asks more of an authority than a test's says
    if client is not None and directory is not None:
        path = private(directory / "client.pem", client[0] + client[1])
        made.load_cert_chain(path)
    return made


def shown_name(address: str | None, authority: Authority, trusting: ssl.SSLContext | None = None) -> str:
    """The common name of the certificate a listener shows now."""
    host, _, port = str(address).rpartition(":")
    used = context(authority) if trusting is None else trusting
    if trusting is None:
        used.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, int(port)), timeout=10) as raw,
        used.wrap_socket(raw, server_hostname="localhost") as link,
    ):
        subject: Any = link.getpeercert()
    return str(dict(part[0] for part in subject["subject"])["commonName"])


def with_passphrase(pem: bytes) -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    key = form.load_pem_private_key(pem, None)
    sealed = form.BestAvailableEncryption(b"secret")
    return key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, sealed)
