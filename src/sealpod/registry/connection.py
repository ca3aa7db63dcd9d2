# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 requests on the standard library, and which hosts may be spoken to in plain.

One idle connection per host is kept, because a TLS handshake is dear in a guest. A request on a kept
connection that the server has closed meanwhile is sent once more on a fresh one. Redirects, credentials and
retries of whole requests are the caller's (:mod:`sealpod.registry.client`), what failures mean is told by
:mod:`sealpod.registry.failures`.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

from sealpod.errors import DecodeError, RefusedError
from sealpod.record import Record

TIMEOUT: Final = 60.0  # seconds without a byte; registries stall while they fetch from storage
_LOOPBACK = re.compile(r"localhost|127\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}|::1")


class Endpoint(Record):
    """Where to connect to."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """``host:port``, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def endpoint_of(url: str) -> Endpoint:
    """The endpoint of an http or https URL; DecodeError for anything else."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise DecodeError(f"not a URL: {url[:200]!r}", code="registry.url") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise DecodeError(f"not an http or https URL: {url[:200]!r}", code="registry.url")
    return Endpoint(parts.scheme, parts.hostname, port)


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine by its text: ``localhost``, 127.0.0.0/8 or ``::1``."""
    return _LOOPBACK.fullmatch(host) is not None


class Reply:
    """A response whose body has not been read; read it to the end or close it."""

    def __init__(self, pool: Connections, endpoint: Endpoint, connection: http.client.HTTPConnection) -> None:
        self._pool = pool
        self._endpoint = endpoint
        self._connection = connection
        self._response = connection.getresponse()
        self.status = self._response.status

    def header(self, name: str) -> str:
        """A header's value, empty without it."""
        return self._response.headers.get(name) or ""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, empty at the end; OSError or HTTPException when the connection breaks."""
        data = self._response.read(size)
        if not data and size and self._response.length:
            raise http.client.IncompleteRead(b"", self._response.length)
        return data

    def read_all(self, limit: int) -> bytes:
        """The whole body; DecodeError beyond ``limit`` bytes."""
        parts: list[bytes] = []
        total = 0
        while data := self.read(64 * 1024):
            total += len(data)
            if total > limit:
                self.close()
                raise DecodeError(
                    f"the registry's answer is longer than {limit} bytes", code="registry.answer"
                )
            parts.append(data)
        self.close()
        return b"".join(parts)

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        done = self._response.isclosed()
        self._response.close()
        self._pool.give_back(self._endpoint, self._connection, reusable=done)


class Connections:
    """Opens connections. ``insecure`` names the hosts that may be spoken to in plain.

    An entry is ``host`` (any port) or ``host:port``; loopback counts as listed with ``plain_loopback``.
    """

    def __init__(
        self, insecure: Collection[str] = (), *, plain_loopback: bool = True, timeout: float = TIMEOUT
    ) -> None:
        self._idle: dict[Endpoint, http.client.HTTPConnection] = {}
        self._insecure = frozenset(insecure)
        self._plain_loopback = plain_loopback
        self._timeout = timeout

    def allows_plain(self, endpoint: Endpoint) -> bool:
        """Whether HTTP without TLS is allowed there."""
        names = (endpoint.host, endpoint.authority)
        return any(name in self._insecure for name in names) or (
            self._plain_loopback and is_loopback(endpoint.host)
        )

    def base_url(self, registry: str) -> str:
        """``scheme://registry``: plain HTTP where allowed, TLS elsewhere."""
        secure = f"https://{registry}"
        plain = self.allows_plain(endpoint_of(f"http://{registry}")) or self.allows_plain(endpoint_of(secure))
        return f"http://{registry}" if plain else secure

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | Iterable[bytes] | None = None
    ) -> Reply:
        """Send a request; ``failures.Failure`` passes through, RefusedError for plain HTTP not allowed."""
        endpoint = endpoint_of(url)
        if endpoint.scheme == "http" and not self.allows_plain(endpoint):
            raise RefusedError(
                f"{endpoint.authority} may not be spoken to without TLS",
                code="registry.plain-http",
                remedy="list it as an insecure registry if that is intended",
            )
        kept = self._idle.pop(endpoint, None)
        if kept is not None:
            try:
                return self._exchange(endpoint, kept, method, url, headers, body)
            except ConnectionError:
                if not isinstance(body, bytes | None):
                    raise  # what was sent of it cannot be sent again
        return self._exchange(endpoint, self._connect(endpoint), method, url, headers, body)

    def give_back(
        self, endpoint: Endpoint, connection: http.client.HTTPConnection, *, reusable: bool
    ) -> None:
        """Keep a connection for the next request, or close it."""
        if not reusable or connection.sock is None or endpoint in self._idle:
            connection.close()
        else:
            self._idle[endpoint] = connection

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.popitem()[1].close()

    def __del__(self) -> None:
        # A source is handed about without an owner; its idle connections end with it.
        self.close()

    def _exchange(
        self,
        endpoint: Endpoint,
        connection: http.client.HTTPConnection,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None,
    ) -> Reply:
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        chunked = body is not None and not isinstance(body, bytes)
        extra = {"Transfer-Encoding": "chunked"} if chunked else {}
        try:
            connection.request(
                method, target, body=body, headers={**headers, **extra}, encode_chunked=chunked
            )
            return Reply(self, endpoint, connection)
        except BaseException:
            connection.close()
            raise

    def _connect(self, endpoint: Endpoint) -> http.client.HTTPConnection:
        if endpoint.scheme == "http":
            return http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=self._timeout)
        return _TlsConnection(endpoint.host, endpoint.port, timeout=self._timeout)


class _TlsConnection(http.client.HTTPConnection):
    """As HTTPSConnection, which is missing where ``http.client`` was loaded without ``ssl``: in the guest."""

    default_port = http.client.HTTPS_PORT

    def connect(self) -> None:
        import ssl

        super().connect()
        self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)
