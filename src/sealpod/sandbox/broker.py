# SPDX-License-Identifier: Apache-2.0
"""The host's side of the key broker: GetBundle and GetSecret, simple-kbs' messages over gRPC.

The broker's refusals keep upstream's text; ours adds a stable code and a remedy as trailing metadata, which
a broker of another make does not send.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Final, Literal

import grpc
import grpc.aio

from sealpod import errors
from sealpod.sandbox.evidence import Bundle, Evidence
from sealpod.sev import cert
from sealpod.sev.packet import Packet
from sealpod.sev.policy import Policy
from sealpod.wire.pb import keybroker_pb2
from sealpod.wire.secrettable import OFFLINE_BUNDLE_GUID, ONLINE_CONNECTION_GUID

SERVICE: Final = "/keybroker.KeyBrokerService/"
CALL_SECONDS: Final = 10.0  # Kata's limit for one call
SESSION_SIZE: Final = 128  # bytes
LAUNCH_DESCRIPTION: Final = "sealpod run"
# What gRPC says of a peer that speaks HTTP, but not gRPC.
HTTP_SIGNS: Final = ("http1.x server", "http2 header with status", "before server preface")
# The rest of what it says is about its own insides.
_CAUSE: Final = re.compile(r"([A-Z][a-z]+(?: [a-z]+)*)(?: \(\d+\))?$")


class Broker:
    """A key broker at ``address``. Make one with :func:`connect`."""

    def __init__(self, channel: grpc.aio.Channel, address: str) -> None:
        self._channel = channel
        self.address = address

    async def get_bundle(self, chain: bytes, policy: Policy) -> Bundle:
        """A session for this platform. RefusedError when the broker does not accept its certificates."""
        request = keybroker_pb2.BundleRequest(
            CertificateChain=base64.b64encode(chain).decode(), Policy=policy.value
        )
        reply = keybroker_pb2.BundleResponse.FromString(
            await self._call("GetBundle", request.SerializeToString())
        )
        if not reply.LaunchId:
            raise errors.DecodeError("the key broker gave no launch id", code="kbs.malformed")
        return Bundle(
            _decode(reply.GuestOwnerPublicKey, cert.SIZE, "guest owner certificate"),
            _decode(reply.LaunchBlob, SESSION_SIZE, "session"),
            reply.LaunchId,
        )

    async def get_secret(
        self, launch_id: str, evidence: Evidence, mode: Literal["online", "offline"], keyset: str
    ) -> Packet:
        """The launch secret for a measured guest, encrypted for its firmware."""
        details = keybroker_pb2.RequestDetails(
            Guid=str(ONLINE_CONNECTION_GUID if mode == "online" else OFFLINE_BUNDLE_GUID),
            Format="JSON",
            SecretType="connection" if mode == "online" else "bundle",
            Id=keyset,
        )
        request = keybroker_pb2.SecretRequest(
            LaunchMeasurement=base64.b64encode(evidence.measurement.encode()).decode(),
            LaunchId=launch_id,
            Policy=evidence.policy.value,
            ApiMajor=evidence.version.api_major,
            ApiMinor=evidence.version.api_minor,
            BuildId=evidence.version.build,
            FwDigest=base64.b64encode(evidence.digest).decode(),
            LaunchDescription=LAUNCH_DESCRIPTION,
            SecretRequests=[details],
        )
        reply = keybroker_pb2.SecretResponse.FromString(
            await self._call("GetSecret", request.SerializeToString())
        )
        return Packet(
            header=_decode(reply.LaunchSecretHeader, None, "secret header"),
            data=_decode(reply.LaunchSecretData, None, "secret"),
        )

    async def _call(self, method: str, payload: bytes) -> bytes:
        call = self._channel.unary_unary(SERVICE + method)
        try:
            return bytes(await call(payload, timeout=CALL_SECONDS))
        except grpc.aio.AioRpcError as error:
            raise self._translate(error) from error

    def _translate(self, error: grpc.aio.AioRpcError) -> errors.SealpodError:
        details = error.details() or ""
        if error.code() == grpc.StatusCode.UNIMPLEMENTED or any(sign in details for sign in HTTP_SIGNS):
            return errors.UnavailableError(
                f"what answers at {self.address} is not a simple-kbs: it does not serve its gRPC interface",
                code="kbs.not-a-broker",
                remedy="name a key broker of simple-kbs' protocol, not an HTTP server such as another KBS",
            )
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return errors.UnavailableError(
                f"the key broker at {self.address} does not answer{_cause(details)}",
                code="kbs.unreachable",
                remedy="start it (`sealpod kbs serve`) or correct its address",
            )
        metadata = {key: value for key, value in error.trailing_metadata() or ()}  # noqa: C416 - not a mapping
        code, remedy = metadata.get("sealpod-code"), metadata.get("sealpod-remedy")
        return errors.RefusedError(
            f"the key broker refused: {details or error.code().name}",
            code=str(code) if code else "kbs.refused",
            remedy=str(remedy) if remedy else None,
        )


def _cause(details: str) -> str:
    match = _CAUSE.search(details)
    return f": {match[1].lower()}" if match else ""


def _decode(text: str, size: int | None, what: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise errors.DecodeError(f"the key broker's {what} is not base64", code="kbs.malformed") from error
    if size is not None and len(data) != size:
        raise errors.DecodeError(
            f"the key broker's {what} has {len(data)} bytes instead of {size}", code="kbs.malformed"
        )
    return data


@contextlib.asynccontextmanager
async def connect(address: str) -> AsyncIterator[Broker]:
    """A broker for the length of the block. Nothing is sent before the first call."""
    options = [("grpc.enable_retries", 0), ("grpc.max_receive_message_length", 1 << 20)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield Broker(channel, address)
