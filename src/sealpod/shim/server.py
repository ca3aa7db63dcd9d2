# SPDX-License-Identifier: Apache-2.0
"""A ttrpc server on a listening unix socket: many connections, many calls in flight on each.

Answers go out as calls end. A call goes on when its connection closes (what it began must be finished), but
one that only waits is dropped with it. A caller's own deadline is the caller's to keep.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from sealpod.errors import DecodeError
from sealpod.wire import ttrpc
from sealpod.wire.status import UNIMPLEMENTED, to_status
from sealpod.wire.ttrpc import Frame, Oversized, Request, Response

READ_SIZE: Final = 65536  # bytes per read
MAX_CALLS: Final = 1024
"""Calls in flight on one connection; every process of a pod has one that waits for its end."""

Handler = Callable[[bytes], Awaitable[bytes]]
Report = Callable[[str], None]


class TtrpcServer:
    """Serves ``methods`` (by service and method). ``waiting`` names methods that only wait."""

    def __init__(
        self,
        listener: socket.socket,
        methods: Mapping[tuple[str, str], Handler],
        *,
        waiting: frozenset[str] = frozenset(),
        report: Report = lambda _line: None,
    ) -> None:
        self._listener = listener
        self._methods = methods
        self._waiting = waiting
        self._report = report
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Accept connections until cancelled."""
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        while True:
            connection, _ = await loop.sock_accept(self._listener)
            connection.setblocking(False)
            self._start(_Connection(self, connection).run())

    async def close(self) -> None:
        """Stop accepting and end every connection and call."""
        self._listener.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def answer(self, request: Request) -> Response:
        """The response to one request; an error of a handler becomes its status."""
        handler = self._methods.get((request.service, request.method))
        if handler is None:
            known = any(service == request.service for service, _ in self._methods)
            text = f"method {request.method}" if known else f"service {request.service}"
            return Response(code=UNIMPLEMENTED, message=text)
        try:
            return Response(payload=await handler(request.payload))
        except Exception as exc:  # noqa: BLE001 (whatever fails, the pod lives and the caller is told)
            code, text = to_status(exc)
            self._report(f"{request.method}: {text}")
            return Response(code=code, message=text)

    def call(self, connection: _Connection, stream: int, request: Request) -> asyncio.Task[None]:
        """Run one call in a task of its own."""
        return self._start(connection.respond(stream, request))

    def only_waits(self, request: Request) -> bool:
        """Whether the call may be dropped with its connection."""
        return request.method in self._waiting


class _Connection:
    def __init__(self, server: TtrpcServer, connection: socket.socket) -> None:
        self._server = server
        self._socket = connection
        self._writing = asyncio.Lock()
        self._calls = 0
        self._waits: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        decoder, streams = ttrpc.FrameDecoder(), ttrpc.ServerStreams()
        try:
            while data := await loop.sock_recv(self._socket, READ_SIZE):
                for frame in decoder.feed(data):
                    await self._accept(frame, streams)
        except (OSError, DecodeError):
            pass  # the connection is over, whatever ended it
        finally:
            for task in self._waits:
                task.cancel()
            self._socket.close()

    async def _accept(self, frame: Frame | Oversized, streams: ttrpc.ServerStreams) -> None:
        try:
            streams.open(frame.stream)
            if isinstance(frame, Oversized):
                return await self._refuse(frame.stream, ttrpc.RESOURCE_EXHAUSTED, frame.refusal())
            if frame.type != ttrpc.REQUEST or frame.flags:
                return await self._refuse(frame.stream, ttrpc.INVALID_ARGUMENT, "only unary calls are served")
            request = Request.decode(frame.payload)
        except DecodeError as exc:
            return await self._refuse(frame.stream, ttrpc.INVALID_ARGUMENT, exc.one_line())
        if self._calls >= MAX_CALLS:
            text = f"{MAX_CALLS} calls are in flight"
            return await self._refuse(frame.stream, ttrpc.RESOURCE_EXHAUSTED, text)
        self._calls += 1
        task = self._server.call(self, frame.stream, request)
        if self._server.only_waits(request):
            self._waits.add(task)
            task.add_done_callback(self._waits.discard)
        return None

    async def respond(self, stream: int, request: Request) -> None:
        try:
            response = await self._server.answer(request)
            await self._reply(stream, response)
        finally:
            self._calls -= 1

    async def _refuse(self, stream: int, code: int, text: str) -> None:
        await self._reply(stream, Response(code=code, message=text))

    async def _reply(self, stream: int, response: Response) -> None:
        data = ttrpc.encode_frame(Frame(stream, ttrpc.RESPONSE, response.encode()))
        async with self._writing:
            # A caller that is gone does not want the answer.
            with contextlib.suppress(OSError):
                await asyncio.get_running_loop().sock_sendall(self._socket, data)
