# SPDX-License-Identifier: Apache-2.0
"""The host's side of the key broker: GetBundle and GetSecret, simple-kbs' messages over gRPC.

The calls are made with the guest's small gRPC client rather than grpcio, which would take 20 MiB of every
pod's shim for two calls.

The broker's refusals keep upstream's text; ours adds a stable code and a remedy as trailing metadata, which
a broker of another make does not send.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import threading
from collections.abc import Callable
from typing import Final, Literal, TypeVar

from sealpod import errors
from sealpod.kbc import unary
from sealpod.sandbox.brokertls import BrokerTls, tls_failure
from sealpod.sandbox.evidence import Bundle, Evidence
from sealpod.sandbox.network import split_host_port
from sealpod.sev import cert
from sealpod.sev.packet import Packet
from sealpod.sev.policy import Policy
from sealpod.wire.pb import keybroker_pb2
from sealpod.wire.secrettable import OFFLINE_BUNDLE_GUID, ONLINE_CONNECTION_GUID

SERVICE: Final = "/keybroker.KeyBrokerService/"
CALL_SECONDS: Final = 10.0  # Kata's limit for one call
SESSION_SIZE: Final = 128  # bytes
LAUNCH_DESCRIPTION: Final = "sealpod run"
MAX_TEXT: Final = 1000  # characters kept of a text the broker sends
UNIMPLEMENTED: Final = 12  # gRPC's status of a server that knows no such service

_T = TypeVar("_T")


class Broker:
    """A key broker at ``address``, HOST:PORT, in plain HTTP/2 unless ``tls`` says whom to believe. Nothing is
    sent before the first call."""

    def __init__(self, address: str, tls: BrokerTls | None = None) -> None:
        """:raise SealpodError: not an address, or TLS files that cannot be used."""
        host, port = split_host_port(address, what="the key broker's address")
        self._peer = (host.strip("[]"), port)
        self.address = address
        self._tls = None if tls is None else tls.context()

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
        try:
            answer = await _in_thread(
                lambda: unary.call(self._peer, SERVICE + method, payload, timeout=CALL_SECONDS, tls=self._tls)
            )
        except errors.UnavailableError as error:
            if self._tls is not None and (reason := tls_failure(error.__cause__)):
                raise self._untrusted(reason) from error
            if unary.NOT_GRPC in error.message:
                raise self._other() from error
            reason = error.message.rpartition(": ")[2]
            raise errors.UnavailableError(
                f"the key broker at {self.address} does not answer: {reason}",
                code="kbs.unreachable",
                remedy="start it (`sealpod kbs serve`) or correct its address",
            ) from error
        if answer.status.code:
            raise self._translate(answer.status)
        return answer.message

    def _other(self) -> errors.UnavailableError:
        return errors.UnavailableError(
            f"what answers at {self.address} is not a simple-kbs",
            code="kbs.not-a-broker",
            remedy="name a key broker of simple-kbs' gRPC protocol, not an HTTP server such as another KBS; "
            "for one behind TLS give --kbs-ca",
        )

    def _untrusted(self, reason: str) -> errors.VerificationError:
        return errors.VerificationError(
            f"no TLS with the key broker at {self.address}: {reason}",
            code="kbs.tls",
            remedy="name its certificate's authority by --kbs-ca and itself by a name in it; "
            "where it asks for a certificate, give --kbs-cert and --kbs-key",
        )

    def _translate(self, status: unary.Status) -> errors.SealpodError:
        if status.code == UNIMPLEMENTED:
            return self._other()
        code, remedy = status.trailers.get("sealpod-code"), status.trailers.get("sealpod-remedy")
        return errors.RefusedError(
            f"the key broker refused: {status.message[:MAX_TEXT] or f'status {status.code}'}",
            code=code or "kbs.refused",
            remedy=remedy or None,
        )


async def _in_thread(work: Callable[[], _T]) -> _T:
    """The result of ``work``, done in a thread nobody waits for when this task is cancelled."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[_T] = loop.create_future()

    def settle(value: _T | None, error: Exception | None) -> None:
        if result.cancelled():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type]

    def run() -> None:
        value, failure = None, None
        try:
            value = work()
        except Exception as error:  # noqa: BLE001 - it is the waiting task's
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, value, failure)

    threading.Thread(target=run, name="key broker", daemon=True).start()
    return await result


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
