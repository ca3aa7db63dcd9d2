# SPDX-License-Identifier: Apache-2.0
"""A ttrpc client for tests: blocking calls from any thread, answers matched by stream."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import Future
from typing import Any

from sealpod.wire import ttrpc
from sealpod.wire.agentapi import AGENT
from sealpod.wire.ttrpc import Frame, Request, Response, encode_frame

TIMEOUT = 60


class Client:
    """Calls over a connected socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._streams = ttrpc.ClientStreams()
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[Response]] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        decoder = ttrpc.FrameDecoder()
        while data := self.connection.recv(65536):
            for frame in decoder.feed(data):
                assert isinstance(frame, Frame)
                self._waiting.pop(frame.stream).set_result(Response.decode(frame.payload))

    def close(self) -> None:
        """End the connection."""
        self.connection.shutdown(socket.SHUT_RDWR)
        self._reader.join(TIMEOUT)
        self.connection.close()

    def send(self, method: str, message: Any = None, service: str = AGENT) -> Future[Response]:
        """Start a call."""
        payload = b"" if message is None else message.SerializeToString()
        future: Future[Response] = Future()
        with self._lock:
            stream = self._streams.take()
            self._waiting[stream] = future
            request = Request(service, method, payload)
            self.connection.sendall(encode_frame(Frame(stream, ttrpc.REQUEST, request.encode())))
        return future

    def expect(self, stream: int) -> Future[Response]:
        """Wait for an answer to a frame the test writes itself."""
        self._waiting[stream] = Future()
        return self._waiting[stream]

    def call(self, method: str, message: Any = None, answer: Any = None, service: str = AGENT) -> Any:
        """A call that must succeed; ``answer`` is filled and returned."""
        response = self.send(method, message, service).result(TIMEOUT)
        assert response.code == 0, response.message
        if answer is not None:
            answer.ParseFromString(response.payload)
        return answer

    def refused(self, method: str, message: Any = None, service: str = AGENT) -> Response:
        """A call that must fail."""
        response = self.send(method, message, service).result(TIMEOUT)
        assert response.code != 0
        return response
