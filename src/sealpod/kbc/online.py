# SPDX-License-Identifier: Apache-2.0
"""``online_sev_kbc``: a connection came with the launch secret; each key is asked for when it is needed.

The launch secret holds ``{"client_id": "<uuid>", "key": "<base64, 32 bytes>"}``. A request names the client
and the key in the clear; the answer is AES-256-GCM under the connection's key, so only this guest can read it
and only the broker can have written it. A GUID drawn for each request must be the name the key stands under
in the decrypted map, or the answer is an old one (simple-kbs, online payload).

That the answer is to *this* request, and not to one that somebody on the way changed under the same GUID, is
told by one more entry (:mod:`sealpod.wire.binding`). It is compared whenever it is there, and must be there
when the client id announces it, which came with the launch secret and cannot be changed on the way.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Callable
from typing import Final
from uuid import UUID

from sealpod.errors import DecodeError, RefusedError, SealpodError, VerificationError
from sealpod.kbc import unary
from sealpod.kbc.bincode import decode_map
from sealpod.kbc.secretarea import MAX_AREA
from sealpod.ocicrypt import keywrap
from sealpod.ocicrypt.packet import AnnotationPacket
from sealpod.secret import SecretBytes
from sealpod.wire import strictjson
from sealpod.wire.binding import BINDING_NAME, BINDING_VERSION, request_digest
from sealpod.wire.guid import parse_guid
from sealpod.wire.message import Schema
from sealpod.wire.secrettable import ONLINE_CONNECTION_GUID

NAME: Final = "online_sev_kbc"
METHOD: Final = "/keybroker.KeyBrokerService/GetOnlineSecret"
TIMEOUT: Final = 30.0
"""Seconds for one key, connecting included; an emulated guest needs several for its part."""
CONNECTION_KEY_SIZE: Final = 32
IV_SIZE: Final = 12
TAG_SIZE: Final = 16
"""Bytes, AES-256-GCM."""
GRPC_INTERNAL: Final = 13
"""The one status simple-kbs refuses with; its text tells why."""

MAX_TEXT: Final = 1000
"""Characters kept of a text the broker sends."""

_CODE = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*")

# The fields of keybroker.proto this client uses.
_MESSAGES: Final = Schema(
    """\
RequestDetails Guid=1:string Format=2:string SecretType=3:string Id=4:string
OnlineSecretRequest ClientId=1:string SecretRequests=2:*RequestDetails
OnlineSecretResponse Payload=1:string IV=2:string
"""
)

Transport = Callable[[tuple[str, int], str, bytes], unary.Answer]


def _unary(address: tuple[str, int], path: str, request: bytes) -> unary.Answer:
    return unary.call(address, path, request, timeout=TIMEOUT)


class OnlineClient:
    """Asks the broker at ``address`` for each key. ``rng`` gives the bytes of the replay guard."""

    def __init__(
        self,
        address: tuple[str, int],
        client_id: str,
        key: SecretBytes,
        *,
        rng: Callable[[int], bytes] = os.urandom,
        transport: Transport = _unary,
    ) -> None:
        self._address = address
        self._client_id = client_id
        self._key = key
        self._rng = rng
        self._transport = transport

    @classmethod
    def open(cls, uri: str, take: Callable[[UUID], SecretBytes]) -> OnlineClient:
        """``uri`` is ``host:port``; ``take`` gives the entry of the launch secret filed under a GUID."""
        address = parse_address(uri)
        client_id, key = parse_connection(take(ONLINE_CONNECTION_GUID))
        return cls(address, client_id, key)

    def unwrap(self, packet: AnnotationPacket) -> SecretBytes:
        """See :class:`sealpod.kbc.port.KeyBrokerClient`."""
        return keywrap.unwrap(self.get_secret("key", packet.key_id), packet)

    def get_secret(self, kind: str, name: str) -> SecretBytes:
        """The secret of this type (``key``, ``resource``) and id, as raw bytes."""
        guard = str(UUID(bytes=self._rng(16), version=4))
        details = _MESSAGES.new("RequestDetails", Guid=guard, Format="binary", SecretType=kind, Id=name)
        request = _MESSAGES.new(
            "OnlineSecretRequest", ClientId=self._client_id, SecretRequests=[details]
        ).encode()
        answer = self._transport(self._address, METHOD, request)
        if answer.status.code:
            raise refusal(self._address, answer.status, name)
        asked = request_digest(self._client_id, [(guard, "binary", kind, name, "", "")])
        return self._open(answer.message, guard, asked)

    def _open(self, message: bytes, guard: str, asked: bytes) -> SecretBytes:
        """Decrypt an answer and find our request in it."""
        response = _MESSAGES.decode("OnlineSecretResponse", message)
        entries = decode_map(self._decrypt(_base64(response.Payload), _base64(response.IV)))
        self._check_binding(entries.get(BINDING_NAME), asked)
        found = entries.get(guard)
        if found is None:
            raise VerificationError(
                "Secret UUID not found: the key broker's answer is not to this request",
                code="kbc.replay",
                remedy="someone between guest and broker replays old answers",
            )
        return SecretBytes(found)

    def _check_binding(self, answered: bytes | None, asked: bytes) -> None:
        """The answer is to our request, as far as its broker can say so."""
        from cryptography.hazmat.primitives.constant_time import bytes_eq

        if answered is None and UUID(self._client_id).version != BINDING_VERSION:
            return  # simple-kbs: the GUID has to do.
        if answered is None or not bytes_eq(answered, asked):
            raise VerificationError(
                "the key broker's answer is to another request",
                code="kbc.binding",
                remedy="someone between guest and broker changes requests",
            )

    def _decrypt(self, sealed: bytes, iv: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if len(iv) != IV_SIZE or len(sealed) < TAG_SIZE:
            raise DecodeError("Failed to decrypt secret payload: its lengths are wrong", code="kbc.payload")
        try:
            return AESGCM(self._key.reveal()).decrypt(iv, sealed, None)
        except InvalidTag as exc:
            raise VerificationError(
                "Failed to decrypt secret payload: it was not made with this guest's connection key",
                code="kbc.payload",
                remedy="someone between guest and broker changed the answer, or it is another broker",
            ) from exc


def refusal(address: tuple[str, int], status: unary.Status, name: str) -> SealpodError:
    """The error for a call that ended with ``status``: simple-kbs refuses with INTERNAL and a text."""
    message = _printable(status.message) or "no text"
    if status.code != GRPC_INTERNAL:
        return unary.unreachable(address, f"gRPC status {status.code}, {message}")
    code = status.trailers.get("sealpod-code", "")
    remedy = _printable(unary.percent_decode(status.trailers.get("sealpod-remedy", "")))
    return RefusedError(
        f"the key broker refused {name}: {message}",
        code=code if _CODE.fullmatch(code) else "kbc.refused",
        remedy=remedy or "ask the image's owner which guests may have the key",
    )


def _printable(text: str) -> str:
    """The broker's words as they may stand on our console."""
    return "".join(c if c.isprintable() else " " for c in text[:MAX_TEXT])


def parse_address(uri: str) -> tuple[str, int]:
    """Host and port of ``host:port`` (IPv6 in brackets). Raises :class:`DecodeError`."""
    host, separator, port = uri.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not host or not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 65536:
        raise DecodeError(
            f"the key broker's address {uri!r} is not host:port",
            code="kbc.params",
            remedy="write agent.aa_kbc_params=online_sev_kbc::HOST:PORT, without http://",
        )
    return host, int(port)


def parse_connection(secret: SecretBytes) -> tuple[str, SecretBytes]:
    """Client id and key. No text of the secret enters the error, nor does its cause, which could quote it."""
    try:
        document = strictjson.parse_object(secret.reveal(), what="connection", limit=MAX_AREA)
        client_id = strictjson.text(document, "client_id", what="connection")
        key = base64.b64decode(strictjson.text(document, "key", what="connection"), validate=True)
        parse_guid(client_id)
    except (DecodeError, binascii.Error, ValueError):
        raise _bad_connection("it is malformed") from None
    if len(key) != CONNECTION_KEY_SIZE:
        raise _bad_connection(f"its key has {len(key)} bytes")
    return client_id, SecretBytes(key)


def _bad_connection(reason: str) -> DecodeError:
    return DecodeError(f"Failed to get injected connection: {reason}", code="kbc.connection")


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise DecodeError("the key broker's answer is not base64", code="kbc.payload") from exc
