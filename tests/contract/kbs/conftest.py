# SPDX-License-Identifier: Apache-2.0
"""A platform, a broker on loopback, and a client that knows nothing but the published field numbers.

The client encodes and decodes protobuf by hand, so that a wrong number in our own .proto cannot hide.
The platform is the firmware's side of :mod:`sealpod.sev` under a root of its own (RSA-2048 to be quick).
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from databases import (
    MariaDb,
    Missing,
    PostgreSql,
    Server,
    TestDatabase,
    running,
    server_database,
    sqlite_database,
)
from mysqlserver import MySql

from sealpod.kbs.server import RunningBroker, ServerConfig, serve
from sealpod.kbs.store.keks import KekSources
from sealpod.sev.ca import CaCertificate, make_ca
from sealpod.sev.cert import Algorithm, Certificate, Usage, make, sign
from sealpod.sev.chain import Chain
from sealpod.sev.measurement import compute_measurement
from sealpod.sev.packet import unpack
from sealpod.sev.policy import Policy
from sealpod.sev.session import TransportKeys, open_session
from sealpod.sev.version import FirmwareVersion
from sealpod.wire import secrettable

BUNDLE_GUID = "e6f5a162-d67f-4750-a67c-5d065f2a9910"
CONNECTION_GUID = "1ee27366-0c87-43a6-af48-28543eaf7cb0"
DIGEST = hashlib.sha256(b"sev-test-vector firmware").digest()
VERSION = FirmwareVersion(0, 24, 15)
POLICY = 3
KEY = bytes.fromhex("45c1c66af6b9d833ef8f5ba8224fcd543625c318b403acb2219f22961117dd7e")
KEY_B64 = "RcHGava52DPvj1uoIk/NVDYlwxi0A6yyIZ8ilhEX3X4="


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# --- the wire ------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(*fields: tuple[int, str | bytes | int]) -> bytes:
    """A protobuf message: numbers as varints, texts and sub-messages length-delimited."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            raw = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(raw)) + raw
    return out


def strings(raw: bytes) -> dict[int, str]:
    """The text fields of a reply."""
    found, offset = {}, 0
    while offset < len(raw):
        tag, size = raw[offset], 0
        assert tag & 7 == 2, raw
        offset, shift = offset + 1, 0
        while True:
            byte = raw[offset]
            size |= (byte & 0x7F) << shift
            offset, shift = offset + 1, shift + 7
            if byte < 0x80:
                break
        found[tag >> 3] = raw[offset : offset + size].decode()
        offset += size
    return found


@dataclass(eq=False)
class Refused(Exception):
    """A status other than OK."""

    status: grpc.StatusCode
    text: str
    code: str
    remedy: str


class Client:
    """The three calls. ``details`` are (Guid, Format, SecretType, Id)."""

    Refused = Refused

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)

    def call(self, method: str, raw: bytes) -> dict[int, str]:
        stub = self.channel.unary_unary(f"/keybroker.KeyBrokerService/{method}")
        try:
            return strings(stub(raw, timeout=10))
        except grpc.RpcError as error:
            extra = dict(error.trailing_metadata() or ())
            raise Refused(
                error.code(),
                error.details(),
                extra.get("sealpod-code", ""),
                extra.get("sealpod-remedy", ""),
            ) from None

    def bundle(self, chain: str, policy: int = POLICY) -> dict[int, str]:
        return self.call("GetBundle", message((1, chain), (2, policy)))

    def refusal(self, method: Callable[..., object], *args: Any, **kwargs: Any) -> Refused:
        """The status of a call that must not succeed."""
        with pytest.raises(Refused) as caught:
            method(*args, **kwargs)
        # Every failure has simple-kbs' status, and says more in the trailing metadata.
        assert caught.value.status is grpc.StatusCode.INTERNAL
        assert caught.value.code
        return caught.value

    def online(self, client_id: str, *details: tuple[str, str, str, str]) -> dict[int, str]:
        return self.call("GetOnlineSecret", message((1, client_id), *((2, _details(d)) for d in details)))

    def fetch(self, connection: dict[str, str], *details: tuple[str, str, str, str]) -> dict[str, bytes]:
        """Ask online with a guest's connection, and look up in the reply what was asked for, as simple-kbs'
        clients do: they do not look at other entries."""
        found = open_online(self.online(connection["client_id"], *details), connection["key"])
        return {guid: found[guid] for guid, *_ in details}

    def entries(self, connection: dict[str, str], *details: tuple[str, str, str, str]) -> dict[str, bytes]:
        """The whole reply."""
        return open_online(self.online(connection["client_id"], *details), connection["key"])

    def secret(self, *details: tuple[str, str, str, str], **claim: Any) -> dict[int, str]:
        fields = [
            (1, claim["measurement"]),
            (2, claim["launch_id"]),
            (3, claim.get("policy", POLICY)),
            (4, claim.get("api_major", VERSION.api_major)),
            (5, claim.get("api_minor", VERSION.api_minor)),
            (6, claim.get("build_id", VERSION.build)),
            (7, claim.get("digest", b64(DIGEST))),
            (8, claim.get("description", "shim launch")),
        ]
        return self.call("GetSecret", message(*fields, *((9, _details(d)) for d in details)))


def _details(details: tuple[str, str, str, str]) -> bytes:
    return message(*enumerate(details, 1))


# --- the platform --------------------------------------------------------------------------------------


def scalar(name: str) -> ec.EllipticCurvePrivateKey:
    """The deterministic keys of tests/vectors/LEDGER.md (P-384)."""
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
    seed = hashlib.sha384(f"sev-test-vector {name}".encode()).digest()
    return ec.derive_private_key(int.from_bytes(seed, "big") % (order - 1) + 1, ec.SECP384R1())


class TestPlatform:
    """Keys and chain of one software platform, and what its firmware would do."""

    __test__ = False

    def __init__(self, chip: str = "cek") -> None:
        self.ark_key, self.ask_key = (rsa.generate_private_key(65537, 2048) for _ in range(2))
        ark_id, ask_id = b"A" * 16, b"B" * 16
        self.ark = make_ca(self.ark_key.public_key(), Usage.ARK, ark_id, ark_id, self.ark_key)
        self.ask = make_ca(self.ask_key.public_key(), Usage.ASK, ask_id, ark_id, self.ark_key)
        self.keys = {name: scalar(name) for name in ("oca", "pek", "pdh")} | {"cek": scalar(chip)}
        ecdsa = Algorithm.ECDSA_SHA256
        cek = self._make("cek", Usage.CEK)
        self.cek = sign(cek, self.ask_key, Usage.ASK, Algorithm.RSA_SHA256, 0)
        self.oca = sign(self._make("oca", Usage.OCA), self.keys["oca"], Usage.OCA, ecdsa, 0)
        pek = sign(self._make("pek", Usage.PEK), self.keys["oca"], Usage.OCA, ecdsa, 0)
        self.pek = sign(pek, self.keys["cek"], Usage.CEK, ecdsa, 1)
        pdh = make(self.keys["pdh"].public_key(), Usage.PDH, Algorithm.ECDH_SHA256)
        self.pdh = sign(pdh, self.keys["pek"], Usage.PEK, ecdsa, 0)

    def _make(self, name: str, usage: Usage) -> Certificate:
        return make(self.keys[name].public_key(), usage, Algorithm.ECDSA_SHA256)

    @property
    def chain(self) -> bytes:
        return Chain(self.pdh, self.pek, self.oca, self.cek, self.ask, self.ark).encode()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the ARK as it stands in the chain: its last 832 bytes."""
        return hashlib.sha256(self.chain[-832:]).hexdigest()

    def forge_ark(self) -> CaCertificate:
        """Another key under this root's ids."""
        key = rsa.generate_private_key(65537, 2048)
        return make_ca(key.public_key(), Usage.ARK, b"A" * 16, b"A" * 16, key)


@dataclass
class Launched:
    """A launch as the firmware holds it after LAUNCH_MEASURE."""

    launch_id: str
    keys: TransportKeys
    measure: bytes
    mnonce: bytes

    @property
    def claim(self) -> dict[str, Any]:
        return {"launch_id": self.launch_id, "measurement": b64(self.measure + self.mnonce)}

    def open(self, reply: dict[int, str]) -> dict[str, bytes]:
        """The secret table the guest sees, by GUID."""
        header, data = (base64.b64decode(reply[field], validate=True) for field in (1, 2))
        table = unpack(self.keys, header, data, self.measure).reveal()
        return {str(guid): value for guid, value in secrettable.decode(table).items()}


class Host:
    """A host with a platform and a broker."""

    def __init__(self, platform: TestPlatform, client: Client) -> None:
        self.platform = platform
        self.client = client

    def launch(self, policy: int = POLICY, digest: bytes = DIGEST) -> Launched:
        reply = self.client.bundle(b64(self.platform.chain), policy)
        godh = Certificate.decode(base64.b64decode(reply[1], validate=True))
        session = base64.b64decode(reply[2], validate=True)
        keys = open_session(self.platform.keys["pdh"], godh, session, Policy.from_int(policy))
        mnonce = bytes(range(0x50, 0x60))
        measure = compute_measurement(keys.tik, VERSION, Policy.from_int(policy), digest, mnonce)
        return Launched(reply[3], keys, measure, mnonce)

    def connect(self) -> dict[str, str]:
        """A guest's connection, by a launch."""
        launched = self.launch()
        reply = self.client.secret((CONNECTION_GUID, "JSON", "connection", ""), **launched.claim)
        connection: dict[str, str] = json.loads(launched.open(reply)[CONNECTION_GUID])
        return connection


def open_online(reply: dict[int, str], key: str) -> dict[str, bytes]:
    """Decrypt an online reply and decode its bincode map."""
    plain = AESGCM(base64.b64decode(key)).decrypt(
        base64.b64decode(reply[2]), base64.b64decode(reply[1]), None
    )
    (count,) = struct.unpack_from("<Q", plain)
    entries, offset = {}, 8
    for _ in range(count):
        pair = []
        for _ in range(2):
            (size,) = struct.unpack_from("<Q", plain, offset)
            pair.append(plain[offset + 8 : offset + 8 + size])
            offset += 8 + size
        entries[pair[0].decode()] = pair[1]
    assert offset == len(plain)
    return entries


# --- fixtures ------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def platform() -> TestPlatform:
    return TestPlatform()


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Server]:
    yield from _server(MariaDb)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    yield from _server(PostgreSql)


@pytest.fixture(scope="session")
def mysql() -> Iterator[Server]:
    yield from _server(MySql)


def _server(make: Callable[[], Server]) -> Iterator[Server]:
    try:
        server = make()
    except Missing as missing:
        pytest.skip(str(missing))
    with running(server):
        yield server


@pytest.fixture(scope="module", params=["sqlite", "mariadb", "postgresql", "mysql"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TestDatabase:
    """An empty database of each kind in turn: everything that asks for one holds on all of them."""
    directory = tmp_path_factory.mktemp("kbs")
    if request.param == "sqlite":
        return sqlite_database(directory)
    return server_database(request.getfixturevalue(request.param), directory)


@pytest.fixture(scope="module")
def broker(platform: TestPlatform, database: TestDatabase) -> Iterator[RunningBroker]:
    config = ServerConfig(
        "127.0.0.1:0", database.url, keks=KekSources(database.kek), trust_arks=(platform.fingerprint,)
    )
    with serve(config) as started:
        database.sql(*SEED)
        yield started


@pytest.fixture
def client(broker: RunningBroker) -> Iterator[Client]:
    made = Client(broker.address)
    yield made
    made.channel.close()


@pytest.fixture
def host(platform: TestPlatform, client: Client) -> Host:
    return Host(platform, client)


@pytest.fixture
def host_at(platform: TestPlatform) -> Iterator[Callable[[str], Host]]:
    """A host that talks to the broker at an address, for a test that starts its own."""
    with ExitStack() as stack:

        def made(address: str) -> Host:
            client = Client(address)
            stack.callback(client.channel.close)
            return Host(platform, client)

        yield made


@pytest.fixture
def replica(database: TestDatabase, platform: TestPlatform, tmp_path: Path) -> Iterator[Callable[..., Host]]:
    """Another broker on the same database, with settings of its own; gives a host that talks to it."""
    resources = tmp_path / "resources"
    resources.mkdir()
    with ExitStack() as stack:

        def start(**options: Any) -> Host:
            config = ServerConfig(
                "127.0.0.1:0",
                database.url,
                keks=KekSources(database.kek),
                resources=str(resources),
                **{"trust_arks": (platform.fingerprint,), **options},
            )
            client = Client(stack.enter_context(serve(config)).address)
            stack.callback(client.channel.close)
            return Host(platform, client)

        yield start


SEED = (
    f"REPLACE INTO secrets VALUES (10,'key_id1','{KEY_B64}',NULL)",
    "REPLACE INTO keysets VALUES (10,'KEYSET-1','[\"key_id1\"]',NULL)",
)
"""What simple-kbs' database image begins with."""


class Owner:
    """Runs SQL as the key owner, by the database's own client program. ``used`` tells whether it has."""

    def __init__(self, database: TestDatabase) -> None:
        self._database = database
        self.used = False

    def __call__(self, *statements: str) -> None:
        self.used = True
        self._database.sql(*statements)


@pytest.fixture
def owner(database: TestDatabase) -> Iterator[Owner]:
    """Runs SQL for the length of a test; the seeded secret and keyset are put back after it."""
    made = Owner(database)
    yield made
    if made.used:
        database.sql(
            *SEED,
            "DELETE FROM policy",
            "DELETE FROM secrets WHERE id > 10",
            "DELETE FROM keysets WHERE id > 10",
            "DELETE FROM report_keypair",
            "DELETE FROM resources",
        )
