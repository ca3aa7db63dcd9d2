# SPDX-License-Identifier: Apache-2.0
"""A ttrpc client over one stream socket: many calls in flight, answers in any order.

The framing is :mod:`sealpod.wire.ttrpc`; this adds the tasks. When the peer goes away, every call in flight
and every later one fails with the same UnavailableError.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from sealpod.errors import DeadlineError, SealpodError, UnavailableError
from sealpod.wire.status import from_status
from sealpod.wire.ttrpc import (
    REQUEST,
    RESPONSE,
    ClientStreams,
    Frame,
    FrameDecoder,
    Oversized,
    Request,
    Response,
    encode_frame,
)

READ_SIZE: Final = 65536  # bytes per read of the socket


class Channel:
    """One ttrpc connection. ``peer`` names the other side in error texts."""

    def __init__(self, connection: socket.socket, peer: str) -> None:
        self._socket = connection
        self._peer = peer
        self._streams = ClientStreams()
        self._pending: dict[int, asyncio.Future[bytes]] = {}
        self._writing = asyncio.Lock()
        self._closed: SealpodError | None = None
        self._reader = asyncio.create_task(self._read())

    async def call(self, service: str, method: str, payload: bytes, *, seconds: float | None = None) -> bytes:
        """The answer's payload. Raises what its status stands for, DeadlineError after ``seconds``."""
        if self._closed is not None:
            raise self._closed
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        async with self._writing:
            stream = self._streams.take()
            self._pending[stream] = answer
            request = Request(service, method, payload, int((seconds or 0) * 1e9))
            try:
                await self._send(encode_frame(Frame(stream, REQUEST, request.encode())))
            except OSError as error:
                self._fail(error)
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError as error:
            raise DeadlineError(
                f"{self._peer} did not answer {method} within {seconds:g} s", code="agent.deadline"
            ) from error
        finally:
            self._pending.pop(stream, None)

    async def close(self) -> None:
        """Stop reading; calls in flight fail."""
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        self._fail(None)

    async def _send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        decoder = FrameDecoder()
        try:
            while data := await loop.sock_recv(self._socket, READ_SIZE):
                for frame in decoder.feed(data):
                    self._take(frame)
        except (OSError, SealpodError) as error:
            self._fail(error)
        else:
            self._fail(None)

    def _take(self, frame: Frame | Oversized) -> None:
        answer = self._pending.pop(frame.stream, None)
        if answer is None or answer.done():
            return
        if isinstance(frame, Oversized):
            answer.set_exception(UnavailableError(f"{self._peer}: {frame.refusal()}", code="agent.size"))
        elif frame.type == RESPONSE:
            self._answer(answer, frame.payload)

    @staticmethod
    def _answer(answer: asyncio.Future[bytes], payload: bytes) -> None:
        try:
            response = Response.decode(payload)
        except SealpodError as error:
            answer.set_exception(error)
            return
        if response.code:
            answer.set_exception(from_status(response.code, response.message))
        else:
            answer.set_result(response.payload)

    def _fail(self, cause: Exception | None) -> None:
        if self._closed is None:
            self._closed = UnavailableError(f"{self._peer} closed its channel", code="agent.gone")
            self._closed.__cause__ = cause
        pending, self._pending = self._pending, {}
        for answer in pending.values():
            if not answer.done():
                answer.set_exception(self._closed)
                # A waiter that was cancelled never looks; do not warn about it.
                answer.exception()
