# SPDX-License-Identifier: Apache-2.0
"""ttrpc framing: bytes to frames and back, and the Request and Response inside them. No I/O.

A frame is a header of ten bytes and a payload; integers are big-endian::

    offset  size  field
    0       4     payload length, at most 4 MiB
    4       4     stream id; a client's are odd and rise by any amount, from 1
    8       1     type: 1 request, 2 response, 3 data
    9       1     flags: request 0 unary, 1 remote closed, 2 remote open; data 1 remote closed, 4 no data

Feed what arrives to a :class:`FrameDecoder`, in pieces of any size. A frame over the limit is skipped
without being stored and reported as :class:`Oversized`, because its stream must be told (status 8).
The messages are those of ``ttrpc.proto``; the values are named tuples, because the guest pays for every
dataclass at its start. Matching answers to questions belongs to client and server.

>>> [f.payload for f in FrameDecoder().feed(encode_frame(Frame(1, REQUEST, b"hi")))]
[b'hi']
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from sealpod.errors import DecodeError
from sealpod.wire.message import Schema

REQUEST: Final = 1
RESPONSE: Final = 2
DATA: Final = 3

MAX_PAYLOAD: Final = 4 << 20
"""Bytes of one payload, the limit of every ttrpc implementation."""
MAX_STREAM: Final = 0xFFFF_FFFF

RESOURCE_EXHAUSTED: Final = 8
INVALID_ARGUMENT: Final = 3

_HEADER = struct.Struct(">IIBB")
HEADER_SIZE: Final = 10

_MESSAGES: Final = Schema(
    """\
KeyValue key=1:string value=2:string
Request service=1:string method=2:string payload=3:bytes timeout_nano=4:int64 metadata=5:*KeyValue
Status code=1:int32 message=2:string details=3:*bytes
Response status=1:Status payload=2:bytes
"""
)


class Frame(NamedTuple):
    """One frame: stream id, type, payload, flags."""

    stream: int
    type: int
    payload: bytes
    flags: int = 0


class Oversized(NamedTuple):
    """A frame over :data:`MAX_PAYLOAD` that was skipped; ``length`` is what its header claims."""

    stream: int
    type: int
    length: int

    def refusal(self) -> str:
        """The sentence its stream is answered with."""
        return f"message length {self.length} exceed maximum message size of {MAX_PAYLOAD}"


class Request(NamedTuple):
    """A call. ``timeout_nano`` 0 means no limit; metadata keys are lower case."""

    service: str
    method: str
    payload: bytes = b""
    timeout_nano: int = 0
    metadata: tuple[tuple[str, str], ...] = ()

    def encode(self) -> bytes:
        """Payload of a frame of type :data:`REQUEST`."""
        pairs = [_MESSAGES.new("KeyValue", key=key, value=value) for key, value in self.metadata]
        return _MESSAGES.new(
            "Request",
            service=self.service,
            method=self.method,
            payload=self.payload,
            timeout_nano=self.timeout_nano,
            metadata=pairs,
        ).encode()

    @classmethod
    def decode(cls, data: bytes) -> Request:
        """Raises :class:`DecodeError` when ``data`` is not a Request."""
        message = _MESSAGES.decode("Request", data)
        metadata = tuple((pair.key, pair.value) for pair in message.metadata)
        return cls(message.service, message.method, message.payload, message.timeout_nano, metadata)


class Response(NamedTuple):
    """An answer: a payload, or a status ``code`` other than 0 with its text."""

    payload: bytes = b""
    code: int = 0
    message: str = ""

    def encode(self) -> bytes:
        """Payload of a frame of type :data:`RESPONSE`."""
        if not self.code:
            return _MESSAGES.new("Response", payload=self.payload).encode()
        status = _MESSAGES.new("Status", code=self.code, message=self.message)
        return _MESSAGES.new("Response", status=status, payload=self.payload).encode()

    @classmethod
    def decode(cls, data: bytes) -> Response:
        """Raises :class:`DecodeError` when ``data`` is not a Response."""
        message = _MESSAGES.decode("Response", data)
        return cls(message.payload, message.status.code, message.status.message)


def encode_frame(frame: Frame) -> bytes:
    """Header and payload. Raises :class:`DecodeError` if the payload is over the limit."""
    if len(frame.payload) > MAX_PAYLOAD:
        raise DecodeError(
            Oversized(frame.stream, frame.type, len(frame.payload)).refusal(), code="ttrpc.size"
        )
    return _HEADER.pack(len(frame.payload), frame.stream, frame.type, frame.flags) + frame.payload


class FrameDecoder:
    """Incremental decoder. Holds at most one frame; never raises while feeding."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip = 0

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame | Oversized]:
        """Frames completed by ``data``, in order."""
        view = memoryview(data)
        out: list[Frame | Oversized] = []
        while view:
            if self._skip:
                taken = min(self._skip, len(view))
                self._skip -= taken
                view = view[taken:]
                continue
            # Take no more than the current frame needs, so that the buffer holds one frame at most.
            taken = min(self._wanted() - len(self._buffer), len(view))
            self._buffer += view[:taken]
            view = view[taken:]
            if len(self._buffer) == self._wanted():
                self._finish(out)
        return out

    def end(self) -> None:
        """Call when the stream ended. Raises :class:`DecodeError` if it ended inside a frame."""
        if self._buffer or self._skip:
            raise DecodeError("the ttrpc stream ended inside a frame", code="ttrpc.truncated")

    def _wanted(self) -> int:
        if len(self._buffer) < HEADER_SIZE:
            return HEADER_SIZE
        length: int = _HEADER.unpack_from(self._buffer)[0]
        return HEADER_SIZE if length > MAX_PAYLOAD else HEADER_SIZE + length

    def _finish(self, out: list[Frame | Oversized]) -> None:
        length, stream, kind, flags = _HEADER.unpack_from(self._buffer)
        if length > MAX_PAYLOAD:
            self._skip = length
            out.append(Oversized(stream, kind, length))
        else:
            out.append(Frame(stream, kind, bytes(self._buffer[HEADER_SIZE:]), flags))
        self._buffer = bytearray()


class ClientStreams:
    """Hands out a client's stream ids: 1, 3, 5, ..."""

    def __init__(self) -> None:
        self._next = 1

    def take(self) -> int:
        """The next id. Raises :class:`DecodeError` when 2**31 were used up."""
        if self._next > MAX_STREAM:
            raise DecodeError("the ttrpc connection has used all stream ids", code="ttrpc.stream")
        taken, self._next = self._next, self._next + 2
        return taken


class ServerStreams:
    """Checks the ids a client opens."""

    def __init__(self) -> None:
        self._last = 0

    def open(self, stream: int) -> None:
        """Raises :class:`DecodeError` unless the id is odd and larger than all before."""
        if stream % 2 == 0:
            raise DecodeError(f"stream id {stream} is even, a client's must be odd", code="ttrpc.stream")
        if stream <= self._last:
            raise DecodeError(f"stream id {stream} is not above {self._last}", code="ttrpc.stream")
        self._last = stream
