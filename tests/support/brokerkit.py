# SPDX-License-Identifier: Apache-2.0
"""A key broker on loopback for tests of how it is served: certificates, channels, plain HTTP, and launches.

What the calls mean is tested by a client of its own making in contract/kbs; here the generated messages do.
"""

from __future__ import annotations

import base64
import datetime
import http.client
import ipaddress
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sealpod.sev.cert import Certificate
from sealpod.sev.measurement import compute_measurement
from sealpod.sev.packet import unpack
from sealpod.sev.policy import Policy
from sealpod.sev.session import open_session
from sealpod.sev.version import FirmwareVersion
from sealpod.wire import secrettable
from sealpod.wire.pb import keybroker_pb2 as pb

SERVICE = "/keybroker.KeyBrokerService/"
GUID = "e6f5a162-d67f-4750-a67c-5d065f2a9910"
DIGEST = bytes(range(100, 132))
VERSION = FirmwareVersion(0, 24, 15)
POLICY = 3
NOW = datetime.datetime.now(datetime.UTC)


class Authority:
    """A certificate authority of a test."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.pem = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - datetime.timedelta(days=1))
            .not_valid_after(NOW + datetime.timedelta(days=30))
        )

    def issue(self, name: str) -> tuple[bytes, bytes]:
        """A certificate for 127.0.0.1 and localhost, and its key; PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(subject, key).add_extension(
            x509.SubjectAlternativeName(names), critical=False
        )
        certificate = builder.sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def private(path: Path, data: bytes) -> str:
    """A file that is its owner's alone, exchanged in one step as a renewal should be."""
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.chmod(0o600)
    fresh.write_bytes(data)
    fresh.rename(path)
    return str(path)


@contextmanager
def channel(
    address: str, authority: bytes | None = None, client: tuple[bytes, bytes] | None = None
) -> Iterator[grpc.Channel]:
    """A connection of its own, plain or by TLS."""
    # Without this, channels of one process to one address share a connection.
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
    if authority is None:
        made = grpc.insecure_channel(address, options)
    else:
        certificate, key = client or (None, None)
        credentials = grpc.ssl_channel_credentials(authority, key, certificate)
        made = grpc.secure_channel(address, credentials, options)
    with made:
        yield made


def call(link: grpc.Channel, method: str, message: Any, **options: Any) -> bytes:
    """The raw answer; grpc.RpcError for a status."""
    stub = link.unary_unary(SERVICE + method)
    return bytes(stub(message.SerializeToString(), timeout=options.pop("timeout", 10), **options))


def bundle(link: grpc.Channel, platform: Any, **options: Any) -> pb.BundleResponse:
    """GetBundle."""
    chain = base64.b64encode(platform.chain).decode()
    request = pb.BundleRequest(CertificateChain=chain, Policy=POLICY)
    return pb.BundleResponse.FromString(call(link, "GetBundle", request, **options))


@dataclass(frozen=True)
class Measured:
    """A launch that may ask for its secret."""

    request: pb.SecretRequest
    keys: Any
    measure: bytes

    def ask(self, link: grpc.Channel, *details: pb.RequestDetails, **options: Any) -> dict[str, bytes]:
        """GetSecret, and the table as the guest sees it."""
        request = pb.SecretRequest()
        request.CopyFrom(self.request)
        request.SecretRequests.extend(details)
        reply = pb.SecretResponse.FromString(call(link, "GetSecret", request, **options))
        header, data = (base64.b64decode(text) for text in (reply.LaunchSecretHeader, reply.LaunchSecretData))
        table = unpack(self.keys, header, data, self.measure).reveal()
        return {str(guid): value for guid, value in secrettable.decode(table).items()}


def measured(link: grpc.Channel, platform: Any, digest: bytes = DIGEST) -> Measured:
    """A launch up to its measurement."""
    reply = bundle(link, platform)
    godh = Certificate.decode(base64.b64decode(reply.GuestOwnerPublicKey))
    keys = open_session(
        platform.keys["pdh"], godh, base64.b64decode(reply.LaunchBlob), Policy.from_int(POLICY)
    )
    nonce = bytes(16)
    measure = compute_measurement(keys.tik, VERSION, Policy.from_int(POLICY), digest, nonce)
    request = pb.SecretRequest(
        LaunchMeasurement=base64.b64encode(measure + nonce).decode(),
        LaunchId=reply.LaunchId,
        Policy=POLICY,
        ApiMajor=VERSION.api_major,
        ApiMinor=VERSION.api_minor,
        BuildId=VERSION.build,
        FwDigest=base64.b64encode(digest).decode(),
    )
    return Measured(request, keys, measure)


@dataclass(frozen=True)
class Answer:
    """What an HTTP listener answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of an error."""
        return str(self.json["error"]["code"])


def request(
    address: str,
    method: str,
    path: str,
    body: Any = None,
    *,
    token: str | None = None,
    context: ssl.SSLContext | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """One HTTP request; ``body`` as JSON unless it is bytes."""
    host, _, port = address.rpartition(":")
    if context is None:
        link = http.client.HTTPConnection(host, int(port), timeout=10)
    else:
        link = http.client.HTTPSConnection(host, int(port), timeout=10, context=context)
    sent = dict(headers or {})
    if token is not None:
        sent["authorization"] = f"Bearer {token}"
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    try:
        link.request(method, path, body=data, headers=sent)
        reply = link.getresponse()
        return Answer(reply.status, {key.lower(): value for key, value in reply.getheaders()}, reply.read())
    finally:
        link.close()
