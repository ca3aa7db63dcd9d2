# SPDX-License-Identifier: Apache-2.0
"""ttrpc server over one file descriptor: a thread reads frames, each call runs in a thread of its own.

Answers go out in the order in which calls end; one lock keeps them whole. An error in a call becomes its
status (:mod:`sealpod.wire.status`) and nothing else: the server ends only when its stream does. The peer is
the untrusted host, so the number of calls in flight is limited and no frame is believed unchecked.

Deadlines of requests (``timeout_nano``) are the caller's to keep: a call that is not wanted any more is
still finished here, because most of what the agent does cannot be left half done.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Final

from sealpod.agent.console import Console
from sealpod.errors import DecodeError
from sealpod.wire import ttrpc
from sealpod.wire.status import UNIMPLEMENTED, to_status
from sealpod.wire.ttrpc import Frame, Oversized, Request, Response

CHUNK: Final = 64 * 1024
"""Bytes per read of the channel."""
MAX_CALLS: Final = 512
"""Calls in flight. A process has four that may wait (exit, two streams, input)."""

Handler = Callable[[bytes], bytes]


class Server:
    """Serves ``methods`` (by service and method name) on ``descriptor`` until :meth:`serve` returns.

    ``after`` holds what to do once a method's answer is out, if it was a success; ``refusals`` the words with
    which some methods are not served.
    """

    def __init__(
        self,
        descriptor: int,
        methods: Mapping[tuple[str, str], Handler],
        console: Console | None = None,
        *,
        after: Mapping[tuple[str, str], Callable[[], None]] | None = None,
        refusals: Mapping[tuple[str, str], str] | None = None,
    ) -> None:
        self._descriptor = descriptor
        self._methods = methods
        self._after = after or {}
        self._refusals = refusals or {}
        self._console = console or Console()
        self._writing = threading.Lock()
        self._calls = threading.BoundedSemaphore(MAX_CALLS)
        self._closed = False

    def serve(self) -> None:
        """Read calls until the stream ends. Raises :class:`DecodeError` if it ends inside a frame."""
        decoder = ttrpc.FrameDecoder()
        streams = ttrpc.ServerStreams()
        try:
            while data := self._read():
                for frame in decoder.feed(data):
                    self._accept(frame, streams)
            decoder.end()
        finally:
            self._closed = True

    def close(self) -> None:
        """Write nothing more; then the descriptor may be closed, whatever call is still under way."""
        with self._writing:
            self._closed = True

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, CHUNK)
        except ConnectionError:
            return b""

    def _accept(self, frame: Frame | Oversized, streams: ttrpc.ServerStreams) -> None:
        try:
            streams.open(frame.stream)
            if isinstance(frame, Oversized):
                return self._refuse(frame.stream, ttrpc.RESOURCE_EXHAUSTED, frame.refusal())
            if frame.type != ttrpc.REQUEST or frame.flags:
                return self._refuse(frame.stream, ttrpc.INVALID_ARGUMENT, "only unary requests are served")
            request = Request.decode(frame.payload)
        except DecodeError as exc:
            return self._refuse(frame.stream, ttrpc.INVALID_ARGUMENT, exc.one_line())
        if not self._calls.acquire(blocking=False):
            return self._refuse(frame.stream, ttrpc.RESOURCE_EXHAUSTED, f"{MAX_CALLS} calls are in flight")
        try:
            threading.Thread(target=self._run, args=(frame.stream, request), daemon=True).start()
        except RuntimeError:
            # Containers may have taken all there are; the agent must outlive that, and can end them.
            self._calls.release()
            return self._refuse(
                frame.stream, ttrpc.RESOURCE_EXHAUSTED, "the guest has no thread for this call"
            )
        return None

    def _refuse(self, stream: int, code: int, text: str) -> None:
        self._reply(stream, Response(code=code, message=text))

    def _run(self, stream: int, request: Request) -> None:
        try:
            response = self._answer(request)
            self._reply(stream, response)
        finally:
            self._calls.release()
        follow = self._after.get((request.service, request.method))
        if follow is not None and not response.code:
            follow()

    def _answer(self, request: Request) -> Response:
        refusal = self._refusals.get((request.service, request.method))
        if refusal is not None:
            self._console.say(refusal)
            return Response(code=UNIMPLEMENTED, message=refusal)
        handler = self._methods.get((request.service, request.method))
        if handler is None:
            known = any(service == request.service for service, _ in self._methods)
            missing = f"method {request.method}" if known else f"service {request.service}"
            return Response(code=UNIMPLEMENTED, message=missing)
        self._console.debug(f"call {request.method}")
        try:
            return Response(handler(request.payload))
        except Exception as exc:  # noqa: BLE001 (whatever fails, the agent lives and the caller is told)
            code, text = to_status(exc)
            # The end of a stream is how every container's output ends, nothing to report.
            if not text.startswith("read meet eof"):
                self._console.say(f"{request.method} failed: {text}")
            return Response(code=code, message=text)

    def _reply(self, stream: int, response: Response) -> None:
        try:
            data = memoryview(ttrpc.encode_frame(Frame(stream, ttrpc.RESPONSE, response.encode())))
        except DecodeError as exc:
            return self._refuse(stream, ttrpc.RESOURCE_EXHAUSTED, exc.one_line())
        with self._writing:
            try:
                while data and not self._closed:
                    data = data[os.write(self._descriptor, data) :]
            except OSError:
                # The host is gone; its next connection starts with new streams.
                self._closed = True
