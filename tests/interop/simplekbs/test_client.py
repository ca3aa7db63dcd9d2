# SPDX-License-Identifier: Apache-2.0
"""A client as others write them: stubs from simple-kbs' published interface, cryptography from the SEV API.

Nothing of this project is imported; the broker is the installed command. The tables are filled by statements
as simple-kbs' guide for key owners has them.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
import sqlite3
import struct
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

HERE = Path(__file__).parent
BUNDLE = "e6f5a162-d67f-4750-a67c-5d065f2a9910"
CONNECTION = "1ee27366-0c87-43a6-af48-28543eaf7cb0"
KEY = "RcHGava52DPvj1uoIk/NVDYlwxi0A6yyIZ8ilhEX3X4="
DIGEST = hashlib.sha256(b"a guest").digest()
VERSION = (0, 24, 15)


def load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


firmware = load("simplekbs_firmware", HERE / "firmware.py")


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The messages, compiled from the published interface.

    In a process of its own this would be an import; here the pool of descriptors has our own of that name.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    out = tmp_path_factory.mktemp("proto") / "set"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{HERE}", f"--descriptor_set_out={out}"]
    subprocess.run([*command, "keybroker.proto"], check=True)
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file:
        pool.Add(file)
    service = pool.FindServiceByName("keybroker.KeyBrokerService")

    class Stubs:
        def __getattr__(self, name: str) -> Any:
            return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"keybroker.{name}"))

        def call(self, channel: grpc.Channel, name: str, request: Any) -> Any:
            method = service.methods_by_name[name]
            answer = message_factory.GetMessageClass(method.output_type)
            stub = channel.unary_unary(
                f"/{service.full_name}/{name}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=answer.FromString,
            )
            return stub(request, timeout=10)

    return Stubs()


@pytest.fixture(scope="module")
def machine() -> Any:
    return firmware.Machine()


@pytest.fixture(scope="module")
def channel(machine: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    database = tmp_path_factory.mktemp("kbs") / "kbs.db"
    command = [sys.executable, "-m", "sealpod.cli.main", "kbs", "serve", "--grpc_sock", "127.0.0.1:0"]
    command += ["--trust-ark", machine.fingerprint, "--no-amd-roots"]
    environment = {
        **os.environ, "KBS_DB_TYPE": "sqlite", "KBS_DB_HOST": "", "KBS_DB_USER": "", "KBS_DB_PW": "",
        "KBS_DB": str(database),
    }  # fmt: skip
    environment.pop("SEALPOD_KBS_DATABASE", None)
    broker = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert broker.stderr is not None
    try:
        address = ""
        for line in broker.stderr:
            if line.startswith("listening on "):
                address = line.split()[-1]
                break
        assert address, broker.wait(timeout=30)
        with sqlite3.connect(database) as tables:
            tables.execute(f"REPLACE INTO secrets VALUES (10,'key_id1','{KEY}',10)")
            tables.execute("REPLACE INTO keysets VALUES (10,'KEYSET-1','[\"key_id1\"]',10)")
            digest = base64.b64encode(DIGEST).decode()
            tables.execute(
                f"REPLACE INTO policy VALUES (10,'[\"{digest}\"]','[]',0,0,'[]',CURRENT_TIMESTAMP,NULL,1)"
            )
        tables.close()
        with grpc.insecure_channel(address) as opened:
            yield opened
    finally:
        broker.terminate()
        with broker.stderr:
            broker.communicate(timeout=30)


class Launcher:
    """What Kata's shim does before it lets a guest run."""

    def __init__(self, stubs: Any, channel: grpc.Channel, machine: Any) -> None:
        self.stubs, self.channel, self.machine = stubs, channel, machine

    def begin(self, policy: int = 0, digest: bytes = DIGEST) -> tuple[str, Any]:
        chain = base64.b64encode(self.machine.chain).decode()
        reply = self.stubs.call(
            self.channel, "GetBundle", self.stubs.BundleRequest(CertificateChain=chain, Policy=policy)
        )
        assert reply.LaunchId == str(uuid.UUID(reply.LaunchId))
        godh, session = (
            base64.b64decode(text, validate=True) for text in (reply.GuestOwnerPublicKey, reply.LaunchBlob)
        )
        return reply.LaunchId, self.machine.launch(godh, session, policy, VERSION, digest)

    def finish(
        self, launch: str, guest: Any, *details: tuple[str, str, str, str], digest: bytes = DIGEST
    ) -> dict[str, bytes]:
        request = self.stubs.SecretRequest(
            LaunchMeasurement=base64.b64encode(guest.measure + guest.mnonce).decode(),
            LaunchId=launch,
            ApiMajor=VERSION[0],
            ApiMinor=VERSION[1],
            BuildId=VERSION[2],
            FwDigest=base64.b64encode(digest).decode(),
            LaunchDescription="shim launch",
            SecretRequests=[self.details(*one) for one in details],
        )
        reply = self.stubs.call(self.channel, "GetSecret", request)
        header, data = (
            base64.b64decode(text, validate=True)
            for text in (reply.LaunchSecretHeader, reply.LaunchSecretData)
        )
        found: dict[str, bytes] = guest.secrets(header, data)
        return found

    def details(self, guid: str, form: str, kind: str, name: str) -> Any:
        return self.stubs.RequestDetails(Guid=guid, Format=form, SecretType=kind, Id=name)

    def online(self, connection: dict[str, str], *details: tuple[str, str, str, str]) -> dict[str, bytes]:
        request = self.stubs.OnlineSecretRequest(
            ClientId=connection["client_id"], SecretRequests=[self.details(*one) for one in details]
        )
        reply = self.stubs.call(self.channel, "GetOnlineSecret", request)
        sealed, iv = (base64.b64decode(text, validate=True) for text in (reply.Payload, reply.IV))
        assert len(iv) == 12
        return bincode_map(AESGCM(base64.b64decode(connection["key"])).decrypt(iv, sealed, None))


def bincode_map(plain: bytes) -> dict[str, bytes]:
    """Rust's bincode 1: a map from text to bytes, lengths of eight bytes, little-endian."""
    (count,) = struct.unpack_from("<Q", plain)
    at, found = 8, {}
    for _ in range(count):
        pair = []
        for _ in range(2):
            (size,) = struct.unpack_from("<Q", plain, at)
            pair.append(plain[at + 8 : at + 8 + size])
            at += 8 + size
        found[pair[0].decode()] = pair[1]
    assert at == len(plain)
    return found


@pytest.fixture
def launcher(stubs: Any, channel: grpc.Channel, machine: Any) -> Launcher:
    return Launcher(stubs, channel, machine)


def test_offline_as_kata_asks(launcher: Launcher) -> None:
    launch, guest = launcher.begin()
    table = launcher.finish(launch, guest, (BUNDLE, "JSON", "bundle", "KEYSET-1"))
    assert json.loads(table[BUNDLE]) == {"key_id1": KEY}


def test_several_secrets_in_one_table(launcher: Launcher) -> None:
    raw, text = str(uuid.uuid4()), str(uuid.uuid4())
    launch, guest = launcher.begin()
    table = launcher.finish(
        launch, guest, (raw, "binary", "key", "key_id1"), (text, "json", "key", "key_id1")
    )
    assert table == {
        raw: base64.b64decode(KEY),
        text: f'{{"id":"key_id1","payload":"{KEY}"}}'.encode(),
    }


def test_nothing_asked_for(launcher: Launcher) -> None:
    assert launcher.finish(*launcher.begin()) == {}


def test_online_as_the_guests_agent_asks(launcher: Launcher) -> None:
    launch, guest = launcher.begin()
    table = launcher.finish(launch, guest, (CONNECTION, "JSON", "connection", "KEYSET-1"))
    connection = json.loads(table[CONNECTION])
    # A reader that takes these two fields and no others.
    assert sorted(connection) == ["client_id", "key"]
    assert connection["client_id"] == str(uuid.UUID(connection["client_id"]))
    assert len(base64.b64decode(connection["key"], validate=True)) == 32
    for _ in range(2):
        guid = str(uuid.uuid4())
        assert launcher.online(connection, (guid, "binary", "key", "key_id1"))[guid] == base64.b64decode(KEY)


def test_another_guest_is_told_why(launcher: Launcher) -> None:
    other = hashlib.sha256(b"another guest").digest()
    launch, guest = launcher.begin(digest=other)
    with pytest.raises(grpc.RpcError) as caught:
        launcher.finish(launch, guest, (BUNDLE, "JSON", "bundle", "KEYSET-1"), digest=other)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert caught.value.details() == "Policy validation failed: fw digest not valid"


def test_a_launch_id_that_was_used(launcher: Launcher) -> None:
    launch, guest = launcher.begin()
    launcher.finish(launch, guest)
    with pytest.raises(grpc.RpcError) as caught:
        launcher.finish(launch, guest)
    assert caught.value.details() == f"Launch ID not found. UUID: {launch}"


def test_the_published_vectors() -> None:
    """simple-kbs' own unit tests, held against this reading of the SEV API."""
    master = firmware.kdf(bytes(16), 16, "sev-master-secret", bytes(16))
    assert master.hex() == "ab4d269fcc62bedb4511d56c386ce706"
    assert firmware.kdf(master, 16, "sev-kek").hex() == "b6abfbfb75ea1ea74ed8750b8afdb973"
    assert firmware.kdf(master, 16, "sev-kik").hex() == "53b524bf5669a363f365c864acba8572"
    guest = firmware.Guest(bytes(16), bytes(16), bytes(32), bytes(16))
    table = bytes.fromhex("42f5741edd71664d963eef4287ff173b14000000") + bytes(12)
    data = firmware.ctr(bytes(16), bytes(16), table)
    text = b"\x01" + bytes(20) + struct.pack("<II", 32, 32) + data + bytes(32)
    import hmac

    assert guest.secrets(bytes(20) + hmac.digest(bytes(16), text, "sha256"), data) == {}
    payload = (
        "D7y13rUsg70sqKk1GCyRmeAgMGIbt1YYrfvStPfSaWZ/bMuFTpaOKwL2RJD59wp7yDV5gHJxRqVQtj8mPgU9kMkcW2njtCRx"
        "rKmXy/ysklDlWS3Sicbh"
    )
    plain = AESGCM(bytes(range(32))).decrypt(bytes(12), base64.b64decode(payload), None)
    assert bincode_map(plain) == {"2cf13667-ea72-4013-9dd6-155e89c5a28f": b"test secret"}
