# SPDX-License-Identifier: Apache-2.0
"""An HTTP/1.1 listener in the broker's event loop, with limits for callers that are slow or gone.

uvicorn speaks HTTP; what it has no limit for stands here: how long a connection may live without a whole
request, and how many there may be.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from sealpod.errors import UnavailableError
from sealpod.kbs.server.config import split_listen

MAX_CONNECTIONS: Final = 128
"""Open connections; further ones get 503, or are closed when these are not answered either."""
REQUEST_SECONDS: Final = 10.0
"""A connection has this long to bring a whole request, and again for each further one."""
TAKE_SECONDS: Final = 10.0
"""A caller has this long to take what is ready for it, up to what is kept for one caller: some 64 KiB."""
KEEP_ALIVE: Final = 15
"""Seconds a connection waits for its next request; Prometheus comes every fifteen or so."""
HANDSHAKE_SECONDS: Final = 10.0
MAX_HEADERS: Final = 16 * 1024
"""Bytes of a request's line and headers."""
GRACE: Final = 5
"""Seconds for requests in progress when the listener ends."""
CLIENT_STATE: Final = "client_name"
"""Under this name a request's state holds the name in its caller's certificate."""


class _Protocol(H11Protocol):
    """uvicorn's HTTP/1.1 with a time limit for requests, and the caller's name from TLS."""

    _limit: asyncio.TimerHandle | None = None
    _taking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, CLIENT_STATE: _common_name(transport.get_extra_info("peercert"))}
        if len(self.connections) > 2 * MAX_CONNECTIONS:
            transport.abort()
            return
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        self._taken()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect()

    def pause_writing(self) -> None:
        super().pause_writing()
        # Who asks again and again and reads nothing would hold its place for as long as it likes.
        self._taking = self.loop.call_later(TAKE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._taken()
        super().resume_writing()

    def _taken(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    def _expect(self) -> None:
        self._cancel()
        self._limit = self.loop.call_later(max(REQUEST_SECONDS, KEEP_ALIVE), self._check)

    def _check(self) -> None:
        cycle: Any = self.cycle  # None before the first request
        if cycle is not None and not cycle.more_body and not cycle.response_complete:
            return  # It brought its request, and waits for us.
        self.transport.abort()

    def _cancel(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None


class WebListener:
    """One application on one address. Made and used in the event loop."""

    def __init__(self, app: ASGIApp, listen: str, context: ssl.SSLContext | None = None) -> None:
        """:raise UsageError: not an address. :raise UnavailableError: it is taken."""
        host, port = split_listen(listen)
        self._socket = _bind(host, port)
        self.address = f"{host}:{self._socket.getsockname()[1]}"
        self._context = context
        self._state = ServerState()
        self._config = uvicorn.Config(
            app,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE,
            h11_max_incomplete_event_size=MAX_HEADERS,
        )
        self._config.load()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Accept requests."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Protocol(self._config, self._state, app_state={}),
            sock=self._socket,
            backlog=MAX_CONNECTIONS,
            ssl=self._context,
            ssl_handshake_timeout=None if self._context is None else HANDSHAKE_SECONDS,
        )

    async def stop(self) -> None:
        """Refuse new requests, and give those in progress a moment to end."""
        if self._server is None:
            self._socket.close()
            return
        self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(set(self._state.tasks), timeout=GRACE)
        for connection in list(self._state.connections):
            if connection.transport is not None:
                connection.transport.abort()


def _bind(host: str, port: int) -> socket.socket:
    try:
        return _listening(host.strip("[]"), port)
    except OSError as error:
        if host == "[::]" and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            # Any address, on a machine without IPv6; gRPC takes it so too.
            return _bind("0.0.0.0", port)  # noqa: S104 - as the operator asked
        raise UnavailableError(
            f"cannot listen on {host}:{port}",
            code="kbs.listen",
            remedy="check that the address is this machine's and the port is free",
        ) from error


def _listening(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind(address)
        made.listen(MAX_CONNECTIONS)
    except BaseException:
        made.close()
        raise
    made.setblocking(False)
    return made


def _common_name(certificate: Any) -> str:
    """The subject's common name in what Python tells of a verified certificate; empty without one."""
    for part in (certificate or {}).get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return ""
