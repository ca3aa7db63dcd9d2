# SPDX-License-Identifier: Apache-2.0
"""Small files over HTTPS, with retries: the transport under :mod:`sealpod.platform.kds`.

Certificates of the server are verified against the system's. Redirects are not followed. How long to wait
the server may say, within bounds: a number of seconds or a date (RFC 9110, Retry-After).
"""

from __future__ import annotations

import datetime
import email.utils
import http.client
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

from sealpod.errors import DecodeError, NotFoundError, UnavailableError

TRIES: Final = 3
DEFAULT_WAIT: Final = 5.0
"""Seconds between tries when the server does not say."""
MAX_WAIT: Final = 60.0
"""Seconds waited at most, whatever the server says."""
TIMEOUT: Final = 30.0
"""Seconds without an answer."""

Connect = Callable[[str], http.client.HTTPConnection]
"""A connection to a host by its name."""


def connect_with_tls(host: str) -> http.client.HTTPConnection:
    """HTTPS to port 443, the server's certificate verified."""
    return http.client.HTTPSConnection(host, timeout=TIMEOUT, context=ssl.create_default_context())


@dataclass(frozen=True, slots=True)
class _Refusal:
    """An answer or a failure that another try may mend."""

    reason: str
    wait: float


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Fetches bodies of at most :attr:`LIMIT` bytes."""

    LIMIT: ClassVar[int] = 1 << 14

    connect: Connect
    sleep: Callable[[float], None]
    clock: Callable[[], float]
    """Seconds since the epoch."""
    progress: Callable[[str], None]

    def fetch(self, host: str, path: str, what: str) -> bytes:
        """The body at ``https://host/path``; ``what`` names it in messages.

        :raise NotFoundError: the server does not have it. :raise DecodeError: the body is too long.
        :raise UnavailableError: the server cannot be reached or keeps failing; its certificate is not valid.
        """
        self.progress(f"fetching {what} from {host}")
        refusal = _Refusal("", DEFAULT_WAIT)
        for attempt in range(TRIES):
            if attempt:
                self.progress(f"{host}: {refusal.reason}; trying again in {refusal.wait:g} s")
                self.sleep(refusal.wait)
            answer = self._try(host, path, what)
            if isinstance(answer, bytes):
                return answer
            refusal = answer
        raise UnavailableError(
            f"{what} cannot be fetched from {host}: {refusal.reason} ({TRIES} tries)",
            code="kds.unreachable",
            remedy="try again later, or give a full chain (sealpod sev export --full)",
        )

    def _try(self, host: str, path: str, what: str) -> bytes | _Refusal:
        connection = self.connect(host)
        try:
            connection.request("GET", path, headers={"Accept": "*/*", "Connection": "close"})
            with connection.getresponse() as response:
                return self._answer(response, host, what)
        except ssl.SSLCertVerificationError as error:
            raise UnavailableError(
                f"the certificate of {host} is not valid: {error.verify_message}",
                code="kds.tls",
                remedy="check the clock and the system's certificate authorities, or who is in between",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            return _Refusal(f"{type(error).__name__}: {error}", DEFAULT_WAIT)
        finally:
            connection.close()

    def _answer(self, response: http.client.HTTPResponse, host: str, what: str) -> bytes | _Refusal:
        if response.status in (404, 410):
            raise NotFoundError(
                f"{host} does not have {what}",
                code="kds.unknown",
                remedy="AMD serves the chips it has sold; check the identifier, or give a full chain",
            )
        if 300 <= response.status < 400:
            raise UnavailableError(
                f"{host} has moved {what} elsewhere (status {response.status}), which is not followed",
                code="kds.moved",
                remedy="give a full chain (sealpod sev export --full), or ASK and ARK as a file",
            )
        if response.status != 200:
            wait = _retry_after(response.headers.get("Retry-After", ""), self.clock)
            return _Refusal(f"status {response.status}", wait)
        body = response.read(self.LIMIT + 1)
        if len(body) > self.LIMIT:
            raise DecodeError(f"{host} answers more than {self.LIMIT} bytes for {what}", code="kds.answer")
        if response.length:
            return _Refusal("the answer was cut short", DEFAULT_WAIT)
        return body


def _retry_after(text: str, clock: Callable[[], float]) -> float:
    text = text.strip()[:64]
    if text.isascii() and text.isdigit():
        return min(float(int(text[:6])), MAX_WAIT)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return DEFAULT_WAIT
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    return min(max(when.timestamp() - clock(), 0.0), MAX_WAIT)
