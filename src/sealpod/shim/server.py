# SPDX-License-Identifier: Apache-2.0
"""A ttrpc server on a listening unix socket: many connections, many calls in flight on each.

Answers go out as calls end. A call goes on when its connection closes (what it began must be finished), but
one that only waits is dropped with it. A caller's own deadline (``timeout_nano``) is the caller's to keep: a
boot that is late is still a boot, and containerd takes it back by deleting it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

from sealpod.errors import DecodeError
from sealpod.wire import ttrpc
from sealpod.wire.status import UNIMPLEMENTED, to_status
from sealpod.wire.ttrpc import Frame, Oversized, Request, Response

READ_SIZE: Final = 65536  # bytes per read
MAX_CALLS: Final = 1024
"""Calls in flight on one connection; every process of a pod has one that waits for its end."""
ACCEPT_PAUSE: Final = 0.1  # seconds, when the system has no descriptor for a new connection
CANCELLED: Final = 1

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
        self._calls: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Accept connections until cancelled."""
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                # No descriptor or memory for it now. The pod must stay reachable when there is again.
                self._report(f"a connection was not accepted: {error.strerror}")
                await asyncio.sleep(ACCEPT_PAUSE)
                continue
            connection.setblocking(False)
            self._start(_Connection(self, connection).run())

    async def drain(self, seconds: float) -> None:
        """Let calls in flight end and answer, for so long."""
        if self._calls:
            await asyncio.wait(list(self._calls), timeout=seconds)

    async def close(self) -> None:
        """Stop listening and end every connection and call."""
        self._listener.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
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
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return Response(code=CANCELLED, message=f"{request.method} was cancelled")
        except Exception as exc:  # noqa: BLE001 (whatever fails, the pod lives and the caller is told)
            code, text = to_status(exc)
            self._report(f"{request.method}: {text}")
            return Response(code=code, message=text)

    def call(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run one call in a task of its own."""
        task = self._start(work)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return task

    def only_waits(self, request: Request) -> bool:
        """Whether the call may be dropped with its connection."""
        return request.method in self._waiting


class _Connection:
    """One client. The socket is closed only when nobody reads or writes it any more."""

    def __init__(self, server: TtrpcServer, connection: socket.socket) -> None:
        self._server = server
        self._socket = connection
        self._writing = asyncio.Lock()
        self._calls = 0
        self._waits: set[asyncio.Task[None]] = set()
        self._closed = False

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        decoder, streams = ttrpc.FrameDecoder(), ttrpc.ServerStreams()
        try:
            while data := await loop.sock_recv(self._socket, READ_SIZE):
                for frame in decoder.feed(data):
                    await self._accept(frame, streams)
        except OSError:
            pass  # the connection is over, whatever ended it
        finally:
            for task in self._waits:
                task.cancel()
            await self._close()

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
        task = self._server.call(self._respond(frame.stream, request))
        task.add_done_callback(self._ended)
        if self._server.only_waits(request):
            self._waits.add(task)
        return None

    def _ended(self, task: asyncio.Task[None]) -> None:
        # Not in the task itself: one that is cancelled before its first step never runs.
        self._calls -= 1
        self._waits.discard(task)

    async def _respond(self, stream: int, request: Request) -> None:
        await self._reply(stream, await self._server.answer(request))

    async def _refuse(self, stream: int, code: int, text: str) -> None:
        await self._reply(stream, Response(code=code, message=text))

    async def _reply(self, stream: int, response: Response) -> None:
        try:
            data = ttrpc.encode_frame(Frame(stream, ttrpc.RESPONSE, response.encode()))
        except DecodeError as exc:
            refusal = Response(code=ttrpc.RESOURCE_EXHAUSTED, message=exc.one_line())
            data = ttrpc.encode_frame(Frame(stream, ttrpc.RESPONSE, refusal.encode()))
        async with self._writing:
            if self._closed:
                return  # a caller that is gone does not want the answer
            try:
                await asyncio.get_running_loop().sock_sendall(self._socket, data)
            except OSError:
                self._hang_up()
            except asyncio.CancelledError:
                # Part of a frame may be out: nothing after it could be understood.
                self._hang_up()
                raise

    def _hang_up(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the reader, and a writer that waits

    async def _close(self) -> None:
        self._hang_up()
        # A writer that waits has its descriptor in the event loop; closed under it, the number would be
        # given to the next connection.
        async with self._writing:
            self._socket.close()
