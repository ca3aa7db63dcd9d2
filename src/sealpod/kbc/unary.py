# SPDX-License-Identifier: Apache-2.0
"""One unary gRPC call over HTTP/2, on a socket of its own.

Why not grpcio: in the guest every import is measured and paid for at boot, and one request with one answer
needs little of it. gRPC over HTTP/2: a request message is ``0x00``, a big-endian u32 length and the message;
status and text come in the trailers ``grpc-status`` and ``grpc-message`` (percent-encoded UTF-8), or in
the only headers when the call failed at once. ``h2`` keeps the HTTP/2 state; this file moves bytes.

In the guest it is plain HTTP/2; a host may give a TLS context, and with it everything is as TLS has it.

The peer is not trusted: what it sends is capped, and everything it can do ends in a
:class:`UnavailableError` or a :class:`Status`.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from sealpod.errors import UnavailableError

if TYPE_CHECKING:
    from ssl import SSLContext

    from h2.connection import H2Connection
    from h2.events import Event

MAX_MESSAGE: Final = 1 << 20
"""Bytes of an answer; a key has 32, a resource a few thousand."""
MAX_HEADERS: Final = 64
"""Header and trailer fields kept."""
CHUNK: Final = 64 * 1024
"""Bytes per read of the socket."""
CONNECT_ATTEMPTS: Final = 3
RETRY_PAUSE: Final = 0.3
"""Seconds between attempts: a broker that is just starting is met, an absent one soon reported."""

NOT_GRPC: Final = "it does not speak gRPC as simple-kbs does"
"""The reason given when something else answers."""

_PREFIX = struct.Struct(">?I")


class Status(NamedTuple):
    """How a call ended: gRPC status number, text, and the trailers by lower-case name."""

    code: int
    message: str
    trailers: dict[str, str]


class Answer(NamedTuple):
    """``message`` is empty unless ``status.code`` is 0."""

    status: Status
    message: bytes


def call(
    address: tuple[str, int],
    path: str,
    request: bytes,
    *,
    timeout: float,
    tls: SSLContext | None = None,
) -> Answer:
    """Send ``request`` to ``path`` (``/package.Service/Method``) and wait ``timeout`` seconds at most.

    :raise UnavailableError: ``kbc.unreachable``: no connection, no gRPC, or no answer in time.
    """
    # Before there is a connection: a broker gives one ten seconds to say something, which an emulated guest
    # on a busy machine may need for this.
    import h2.connection  # noqa: F401

    deadline = time.monotonic() + timeout
    with _connect(address, deadline) as plain:
        try:
            if tls is None:
                return _Call(plain, address, deadline).run(path, request)
            plain.settimeout(_left(deadline))
            with tls.wrap_socket(plain, server_hostname=address[0]) as connection:
                return _Call(connection, address, deadline, scheme="https").run(path, request)
        except OSError as exc:
            raise unreachable(address, _reason(exc)) from exc


def unreachable(address: tuple[str, int], reason: str) -> UnavailableError:
    """The error for a broker that cannot be talked to."""
    return UnavailableError(
        f"the key broker at {address[0]}:{address[1]} does not answer: {reason}",
        code="kbc.unreachable",
        remedy="start the broker (`sealpod kbs serve`) and see that the guest can reach this address",
    )


def _connect(address: tuple[str, int], deadline: float) -> socket.socket:
    for attempt in range(1, CONNECT_ATTEMPTS + 1):
        try:
            return socket.create_connection(address, _left(deadline))
        except OSError as exc:
            if attempt == CONNECT_ATTEMPTS or isinstance(exc, TimeoutError):
                raise unreachable(address, _reason(exc)) from exc
            time.sleep(RETRY_PAUSE)
    raise unreachable(address, "no attempt was made")


def _left(deadline: float) -> float:
    """Seconds left, but never 0, which would mean a non-blocking socket."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def _reason(exc: OSError) -> str:
    return exc.strerror or str(exc) or type(exc).__name__


class _Call:
    """One call's state: what has arrived on the only stream."""

    def __init__(
        self, connection: socket.socket, address: tuple[str, int], deadline: float, *, scheme: str = "http"
    ) -> None:
        from h2.connection import H2Connection

        self._socket = connection
        self._address = address
        self._deadline = deadline
        self._scheme = scheme
        self._h2: H2Connection = H2Connection()
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._ended = False

    def run(self, path: str, request: bytes) -> Answer:
        from h2.exceptions import ProtocolError

        try:
            self._send_request(path, request)
            while not self._ended:
                self._receive()
        except ProtocolError as exc:
            raise self._not_grpc() from exc
        return self._answer()

    def _send_request(self, path: str, request: bytes) -> None:
        self._h2.initiate_connection()
        stream = self._h2.get_next_available_stream_id()
        authority = f"{self._address[0]}:{self._address[1]}"
        self._h2.send_headers(
            stream,
            [
                (":method", "POST"),
                (":scheme", self._scheme),
                (":path", path),
                (":authority", authority),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                ("user-agent", "sealpod"),
            ],
        )
        # A request here is a few hundred bytes, far below the first window (65,535) and frame size (16,384).
        self._h2.send_data(stream, _PREFIX.pack(False, len(request)) + request, end_stream=True)
        self._flush()

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data:
            self._socket.settimeout(_left(self._deadline))
            self._socket.sendall(data)

    def _receive(self) -> None:
        self._socket.settimeout(_left(self._deadline))
        data = self._socket.recv(CHUNK)
        if not data:
            raise self._not_grpc()
        for event in self._h2.receive_data(data):
            self._handle(event, self._h2)
        self._flush()

    def _handle(self, event: Event, h2: H2Connection) -> None:
        from h2 import events

        if isinstance(event, events.ResponseReceived | events.TrailersReceived):
            for name, value in (event.headers or [])[:MAX_HEADERS]:
                self._headers[_text(name)] = _text(value)
        elif isinstance(event, events.DataReceived):
            self._body += event.data or b""
            if len(self._body) > MAX_MESSAGE + _PREFIX.size:
                raise unreachable(self._address, f"its answer is longer than {MAX_MESSAGE} bytes")
            h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
        elif isinstance(event, events.StreamReset | events.ConnectionTerminated):
            # A server may reset the stream after its trailers; only a call without status is lost.
            if "grpc-status" not in self._headers:
                raise unreachable(self._address, "it broke off the call")
            self._ended = True
        elif isinstance(event, events.StreamEnded):
            self._ended = True

    def _answer(self) -> Answer:
        code = self._headers.get("grpc-status", "")
        if self._headers.get(":status") != "200" or not code.isascii() or not code.isdigit():
            raise self._not_grpc()
        status = Status(int(code[:9]), percent_decode(self._headers.get("grpc-message", "")), self._headers)
        return Answer(status, b"" if status.code else self._message())

    def _message(self) -> bytes:
        if len(self._body) >= _PREFIX.size:
            compressed, length = _PREFIX.unpack_from(self._body)
            if not compressed and length == len(self._body) - _PREFIX.size:
                return bytes(self._body[_PREFIX.size :])
        raise unreachable(self._address, "its answer is not one uncompressed gRPC message")

    def _not_grpc(self) -> UnavailableError:
        return unreachable(self._address, NOT_GRPC)


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def percent_decode(text: str) -> str:
    """``grpc-message`` as text; broken sequences stay as they are, as gRPC wants."""
    first, *parts = text.split("%")
    raw = bytearray(first.encode())
    for part in parts:
        try:
            raw.append(int(part[:2], 16) if len(part) >= 2 and part[:2].isalnum() else -1)
            raw += part[2:].encode()
        except ValueError:
            raw += b"%" + part.encode()
    return raw.decode("utf-8", "replace")
