# SPDX-License-Identifier: Apache-2.0
"""Decisions to somebody else's server, as they are made: one POST each, JSON, the newest text of the chain.

A receiver that keeps number and hash can tell later that the database's log was changed or cut off. It never
holds up a decision: they wait in a queue of bounded length, are sent by one thread in their order, and each
is tried a few times with growing pauses. What does not get through is counted, said in the log, and still
stands in the database, where ``sealpod kbs audit export --after`` finds it.

Body: ``{"number": n, "hash": "<hex>", "record": {...}}``; number and hash are null for a refusal that could
not be written down. URL and token come from files, so that neither is in a command line or a process list.
"""

from __future__ import annotations

import http.client
import json
import logging
import queue
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final
from urllib.parse import SplitResult, urlsplit

from sealpod.errors import UsageError
from sealpod.kbs.core.audit import Decision, Entry
from sealpod.kbs.core.ports import Auditor
from sealpod.kbs.server.config import is_loopback
from sealpod.kbs.server.files import read_file, read_private
from sealpod.secret import SecretBytes

QUEUE: Final = 10_000
"""Decisions waiting, some KiB each at most: minutes of a busy broker."""
TIMEOUT: Final = 10.0
"""Seconds for one attempt."""
PAUSES: Final = (0.5, 2.0, 8.0, 30.0)
"""Seconds before each further attempt."""
DRAIN: Final = 5.0
"""Seconds a broker that stops gives what still waits."""

_logger = logging.getLogger(__name__)

Sender = Callable[[bytes], None]


class Webhook:
    """Sends each of a queue's decisions by ``send``, which raises OSError when it did not get through."""

    def __init__(self, send: Sender, *, size: int = QUEUE, pauses: tuple[float, ...] = PAUSES) -> None:
        self._send = send
        self._pauses = pauses
        self._waiting: queue.Queue[bytes | None] = queue.Queue(size)
        self._stopping = threading.Event()
        self.lost = 0
        self._thread = threading.Thread(target=self._run, name="kbs-webhook", daemon=True)
        self._thread.start()

    def put(self, decision: Decision, entry: Entry | None) -> None:
        """Never waits: a full queue loses the decision."""
        number, digest = (None, None) if entry is None else (entry.number, entry.hash)
        record = json.loads(decision.record())
        body = json.dumps({"number": number, "hash": digest, "record": record}).encode()
        try:
            self._waiting.put_nowait(body)
        except queue.Full:
            self._lose("its queue is full")

    def close(self, wait: float = DRAIN) -> None:
        """Send what waits, for ``wait`` seconds at most."""
        self._stopping.set()
        with suppress(queue.Full):  # Then the thread sees the event behind the next decision.
            self._waiting.put_nowait(None)
        self._thread.join(wait)
        left = self._waiting.qsize()
        if self._thread.is_alive() and left:
            _logger.warning("webhook: stopped with %d decisions unsent", left)

    def _run(self) -> None:
        while True:
            body = self._waiting.get()
            if body is None:
                return
            self._deliver(body)
            if self._stopping.is_set() and self._waiting.empty():
                return

    def _deliver(self, body: bytes) -> None:
        for pause in (*self._pauses, None):
            try:
                self._send(body)
                return
            except (OSError, http.client.HTTPException) as error:
                reason = type(error).__name__
            # A broker that stops does not wait; what is left gets one more attempt each at most.
            if pause is None or self._stopping.wait(pause):
                break
        self._lose(reason)

    def _lose(self, reason: str) -> None:
        self.lost += 1
        _logger.warning("webhook: a decision did not get through (%s), %d so far", reason, self.lost)


def open_webhook(url_file: str | None, token_file: str | None) -> Webhook | None:
    """The webhook that files name; None without a URL.

    :raise UsageError: a token without a URL, or not a URL. :raise SealpodError: a file cannot be read, or
        others could read the token.
    """
    if url_file is None:
        if token_file is not None:
            raise UsageError("--audit-webhook-token needs --audit-webhook", code="webhook.options")
        return None
    url = read_file(url_file, "webhook's URL").decode("utf-8", "replace").strip()
    token = None
    if token_file is not None:
        raw = read_private(token_file, "webhook's token").strip()
        if not raw or not raw.isascii() or not raw.decode("ascii").isprintable():
            raise UsageError("the webhook's token is one line of ASCII", code="webhook.token")
        token = SecretBytes(raw)
    return Webhook(HttpSender(url, token))


class WebhookAuditor:
    """Passes decisions to a webhook and on."""

    def __init__(self, auditor: Auditor, webhook: Webhook) -> None:
        self._auditor = auditor
        self._webhook = webhook

    def record(self, decision: Decision, entry: Entry | None) -> None:
        self._webhook.put(decision, entry)
        self._auditor.record(decision, entry)


class HttpSender:
    """POSTs to ``url``; ``token`` goes along as a bearer token. Redirects are not followed.

    :raise UsageError: not an http or https URL; a token that would be read on its way.
    """

    def __init__(self, url: str, token: SecretBytes | None, *, timeout: float = TIMEOUT) -> None:
        self._url = _split(url)
        if token is not None and self._url.scheme == "http" and not is_loopback(self._url.hostname or ""):
            raise UsageError(
                "the webhook's token does not go over plain HTTP",
                code="webhook.plaintext",
                remedy="give an https:// URL, or one of this machine's own",
            )
        self._token = token
        self._timeout = timeout

    def __call__(self, body: bytes) -> None:
        """:raise OSError: it did not get through, or was not taken."""
        headers = {"Content-Type": "application/json", "User-Agent": "sealpod-kbs"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token.reveal().decode('ascii')}"
        connection = self._connect()
        try:
            connection.request("POST", self._path, body, headers)
            status = connection.getresponse().status
        finally:
            connection.close()
        if not 200 <= status < 300:
            raise ConnectionError(f"status {status}")

    @property
    def _path(self) -> str:
        query = f"?{self._url.query}" if self._url.query else ""
        return (self._url.path or "/") + query

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=self._timeout, context=context)
        return http.client.HTTPConnection(host, port, timeout=self._timeout)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or True)
    except ValueError:
        usable = False
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        # It may hold a password, so it is not quoted.
        raise UsageError(
            "the webhook's file does not hold an http:// or https:// URL",
            code="webhook.url",
            remedy="write the URL alone into the file --audit-webhook names",
        )
    return parts
