# SPDX-License-Identifier: Apache-2.0
"""Our own clients at a broker with TLS: the launcher's, which speaks it, and the guest's, which does not and
has a listener of its own."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import pytest
from brokerkit import DIGEST, VERSION, Authority, bundle, call, channel, measured, private
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sealpod.errors import RefusedError, SealpodError, UnavailableError, VerificationError
from sealpod.kbc.online import OnlineClient
from sealpod.kbs.core.audit import Decision, Entry
from sealpod.kbs.server import RunningBroker, ServerConfig, serve
from sealpod.kbs.server.config import TlsFiles
from sealpod.kbs.store.database import open_database
from sealpod.kbs.store.secrets import set_secret
from sealpod.sandbox.broker import Broker
from sealpod.sandbox.brokertls import BrokerTls
from sealpod.sandbox.evidence import Evidence
from sealpod.secret import SecretBytes
from sealpod.sev.cert import Certificate
from sealpod.sev.measurement import Measurement, compute_measurement
from sealpod.sev.packet import unpack
from sealpod.sev.policy import Policy
from sealpod.sev.session import open_session
from sealpod.wire import secrettable
from sealpod.wire.pb import keybroker_pb2 as pb

POLICY = Policy.from_int(3)
Start = Callable[..., RunningBroker]


class Files:
    """What server and host have on their disks."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        server, clients, strangers = (Authority(name) for name in ("server", "clients", "strangers"))
        self.ca = self.write("ca", server.pem)
        self.strange_ca = self.write("strange-ca", strangers.pem)
        self.client_ca = self.write("client-ca", clients.pem)
        self.server = self.pair("kbs", server)
        self.node = self.pair("node", clients)
        self.stranger = self.pair("stranger", strangers)

    def write(self, name: str, data: bytes) -> str:
        return private(self.directory / f"{name}.pem", data)

    def pair(self, name: str, authority: Authority) -> tuple[str, str]:
        certificate, key = authority.issue(name)
        return self.write(f"{name}-cert", certificate), self.write(f"{name}-key", key)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


class Records:
    """An auditor that remembers."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []

    def record(self, decision: Decision, entry: Entry | None) -> None:
        self.decisions.append(decision)


@pytest.fixture
def start(platform: Any, files: Files, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def started(*, clients: bool = False, auditor: Any = None, **options: Any) -> RunningBroker:
            url = f"sqlite:///{tmp_path / 'kbs.db'}"
            options.setdefault("tls", TlsFiles(*files.server, files.client_ca if clients else None))
            options.setdefault("listen", "127.0.0.1:0")
            config = ServerConfig(database=url, trust_arks=(platform.fingerprint,), **options)
            broker = stack.enter_context(serve(config, auditor=auditor))
            with open_database(url) as db:
                set_secret(db, "key_id1", SecretBytes(b"k" * 32), policy=None)
            return broker

        yield started


def ask(address: str, platform: Any, tls: BrokerTls | None) -> Any:
    return asyncio.run(Broker(address, tls).get_bundle(platform.chain, POLICY))


def refusal(address: str, platform: Any, tls: BrokerTls | None) -> SealpodError:
    with pytest.raises(SealpodError) as caught:
        ask(address, platform, tls)
    return caught.value


def connection(address: str, platform: Any, tls: BrokerTls) -> dict[str, str]:
    """A whole launch by the launcher's client, for a guest's connection."""

    async def launch() -> dict[str, str]:
        broker = Broker(address, tls)
        begun = await broker.get_bundle(platform.chain, POLICY)
        keys = open_session(platform.keys["pdh"], Certificate.decode(begun.godh), begun.session, POLICY)
        nonce = bytes(16)
        measure = compute_measurement(keys.tik, VERSION, POLICY, DIGEST, nonce)
        evidence = Evidence(Measurement(measure, nonce), VERSION, POLICY, DIGEST)
        packet = await broker.get_secret(begun.launch_id, evidence, "online", "")
        table = secrettable.decode(unpack(keys, packet.header, packet.data, measure).reveal())
        found: dict[str, str] = json.loads(table[secrettable.ONLINE_CONNECTION_GUID])
        return found

    return asyncio.run(launch())


class TestLauncher:
    def test_a_launch(self, start: Start, files: Files, platform: Any) -> None:
        broker = start()
        assert set(connection(broker.address, platform, BrokerTls(files.ca))) == {"client_id", "key"}
        # By name as by address.
        port = broker.address.rpartition(":")[2]
        assert ask(f"localhost:{port}", platform, BrokerTls(files.ca)).launch_id

    def test_a_client_certificate(self, start: Start, files: Files, platform: Any) -> None:
        records = Records()
        broker = start(clients=True, auditor=records)
        assert ask(broker.address, platform, BrokerTls(files.ca, *files.node)).launch_id
        assert records.decisions[-1].identity == "node"
        before = len(records.decisions)
        for tls in (BrokerTls(files.ca), BrokerTls(files.ca, *files.stranger)):
            error = refusal(broker.address, platform, tls)
            assert isinstance(error, VerificationError | UnavailableError)
            assert error.code in ("kbs.tls", "kbs.unreachable", "kbs.not-a-broker")
            assert "--kbs-cert" in str(error.remedy) or error.code != "kbs.tls"
        assert len(records.decisions) == before

    def test_certificate_and_key_in_one_file(self, start: Start, files: Files, platform: Any) -> None:
        both = b"".join(Path(part).read_bytes() for part in files.node)
        one = files.write("both", both)
        assert ask(start(clients=True).address, platform, BrokerTls(files.ca, one)).launch_id

    def test_a_broker_of_another_authority(self, start: Start, files: Files, platform: Any) -> None:
        records = Records()
        error = refusal(start(auditor=records).address, platform, BrokerTls(files.strange_ca))
        assert isinstance(error, VerificationError)
        assert error.code == "kbs.tls"
        assert "certificate" in error.message
        assert records.decisions == [], "nothing was said to a broker that is not believed"

    def test_a_certificate_for_another_name(self, start: Start, files: Files, platform: Any) -> None:
        port = start(listen="0.0.0.0:0").address.rpartition(":")[2]
        error = refusal(f"127.0.0.2:{port}", platform, BrokerTls(files.ca))
        assert error.code == "kbs.tls"
        assert "127.0.0.2" in error.message

    def test_no_way_back_to_plain(self, start: Start, files: Files, platform: Any) -> None:
        error = refusal(start(tls=None).address, platform, BrokerTls(files.ca))
        assert error.code == "kbs.tls"

    def test_plain_at_a_listener_with_tls(self, start: Start, platform: Any) -> None:
        error = refusal(start().address, platform, None)
        assert isinstance(error, UnavailableError)
        if error.code == "kbs.not-a-broker":
            assert "--kbs-ca" in str(error.remedy)

    @pytest.mark.parametrize(
        ("wrong", "code"),
        [
            ("open-key", "kbs.file-mode"),
            ("passphrase", "tls.certificate"),
            ("no-key", "tls.certificate"),
            ("no-file", "tls.certificate"),
            ("other-key", "tls.certificate"),
        ],
    )
    def test_files_that_cannot_be_used(self, files: Files, wrong: str, code: str) -> None:
        certificate, key = files.node
        if wrong == "open-key":
            copied = files.write("open", Path(key).read_bytes())
            os.chmod(copied, 0o644)
        elif wrong == "passphrase":
            copied = files.write("closed", with_passphrase(Path(key).read_bytes()))
        elif wrong == "no-key":
            copied = files.write("none", b"nothing\n")
        elif wrong == "no-file":
            copied = str(files.directory / "gone.pem")
        else:
            copied = files.stranger[1]
        with pytest.raises(SealpodError) as caught:
            Broker("127.0.0.1:1", BrokerTls(files.ca, certificate, copied))
        assert caught.value.code == code
        assert "PRIVATE" not in str(caught.value)


class TestGuestListener:
    """Plain, beside one with TLS, for what guests ask and nothing else."""

    def test_a_guest_gets_its_key(self, start: Start, files: Files, platform: Any) -> None:
        broker = start(clients=True, guest_listen="127.0.0.1:0")
        guest = connection(broker.address, platform, BrokerTls(files.ca, *files.node))

        def take(_guid: UUID) -> SecretBytes:
            return SecretBytes(json.dumps(guest).encode())

        assert broker.guest_address is not None
        client = OnlineClient.open(broker.guest_address, take)
        assert client.get_secret("key", "key_id1") == SecretBytes(b"k" * 32)
        with pytest.raises(RefusedError):
            client.get_secret("key", "missing")

    def test_hosts_are_not_answered_there(self, start: Start, files: Files, platform: Any) -> None:
        records = Records()
        broker = start(clients=True, guest_listen="127.0.0.1:0", auditor=records)
        with channel(str(broker.guest_address)) as link:
            for method, request in (
                ("GetBundle", pb.BundleRequest(CertificateChain=base64.b64encode(platform.chain).decode())),
                ("GetSecret", pb.SecretRequest(LaunchId="x")),
            ):
                with pytest.raises(grpc.RpcError) as caught:
                    call(link, method, request)
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
            health = health_pb2_grpc.HealthStub(link).Check(health_pb2.HealthCheckRequest(), timeout=10)
            assert health.status == health_pb2.HealthCheckResponse.SERVING
        assert records.decisions == []

    def test_both_take_part_in_limits_and_end(self, start: Start, platform: Any) -> None:
        broker = start(tls=None, guest_listen="127.0.0.1:0")
        with channel(broker.address) as first, channel(str(broker.guest_address)) as second:
            assert measured(first, platform).ask(first) == {}
            bundle(first, platform)
            broker.stop(5)
            for link, method in ((first, "GetBundle"), (second, "GetOnlineSecret")):
                with pytest.raises(grpc.RpcError) as caught:
                    call(link, method, pb.OnlineSecretRequest(), timeout=5)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    def test_an_address_that_is_taken(self, start: Start) -> None:
        broker = start(tls=None)
        with pytest.raises(UnavailableError) as caught:
            start(tls=None, guest_listen=broker.address)
        assert caught.value.code == "kbs.listen"


def with_passphrase(pem: bytes) -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    key = form.load_pem_private_key(pem, None)
    sealed = form.BestAvailableEncryption(b"secret")
    return key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, sealed)
