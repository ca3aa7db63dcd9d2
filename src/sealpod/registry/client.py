# SPDX-License-Identifier: Apache-2.0
"""Requests to one repository of a registry (OCI distribution spec): authentication, redirects, retries.

* 401: the challenge is answered once (Bearer through the token service, Basic with the credentials) and the
  header kept for the following requests of the same scope.
* Redirects: up to five; another host does not get the Authorization header (object stores refuse it, and it
  is not theirs to know); https never becomes http.
* Retries: broken connections, 429 and 5xx, a few times with a growing pause, for repeatable requests.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final
from urllib.parse import quote, urlencode, urljoin

from sealpod.errors import (
    AccessError,
    NotFoundError,
    OperationError,
    RefusedError,
    SealpodError,
    UnavailableError,
)
from sealpod.record import Record
from sealpod.registry.challenge import Challenge, parse_challenges
from sealpod.registry.connection import Connections, Reply, endpoint_of
from sealpod.registry.failures import Failure, explain, is_transient
from sealpod.secret import SecretBytes
from sealpod.wire import strictjson

HUB: Final = "docker.io"
HUB_HOST: Final = "registry-1.docker.io"  # where the hub's API lives
ATTEMPTS: Final = 4  # per request; with the pauses below about 1.5 s, after which a person should look
FIRST_PAUSE: Final = 0.2  # seconds, doubled each time
MAX_PAUSE: Final = 5.0  # seconds; a longer Retry-After is not waited for
MAX_REDIRECTS: Final = 5
MAX_ANSWER: Final = 1024 * 1024  # bytes of a token or error document
REDIRECTS: Final = (301, 302, 303, 307, 308)
TRANSIENT: Final = (429, 500, 502, 503, 504)
PULL: Final = "pull"
PUSH: Final = "pull,push"

Body = bytes | Iterable[bytes] | None


class Credentials(Record):
    """A registry account."""

    username: str
    password: SecretBytes

    def basic(self) -> str:
        """The Basic header's value."""
        pair = self.username.encode() + b":" + self.password.reveal()
        return "Basic " + base64.b64encode(pair).decode("ascii")


class RegistryClient:
    """Requests below ``/v2/<repository>/`` of ``registry`` (``host[:port]``)."""

    def __init__(
        self,
        registry: str,
        repository: str,
        *,
        connections: Connections | None = None,
        credentials: Credentials | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.registry = registry
        self.repository = repository
        self._connections = connections or Connections()
        self._credentials = credentials
        self._sleep = sleep
        self._headers: dict[str, str] = {}  # actions -> Authorization
        self._base = self._connections.base_url(HUB_HOST if registry == HUB else registry)

    def url(self, path: str) -> str:
        """The URL of a path below the repository."""
        return f"{self._base}/v2/{quote(self.repository)}/{path}"

    def request(
        self,
        method: str,
        url: str,
        *,
        accept: Iterable[int],
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        actions: str = PULL,
    ) -> Reply:
        """Send a request and return the reply if its status is in ``accept``; the caller closes it.

        NotFoundError (``registry.not-found``), AccessError (``registry.unauthorized``, ``registry.denied``),
        UnavailableError (``registry.unreachable``, ``registry.busy``), OperationError (``registry.status``).
        A body given as an iterable is sent once: nothing is retried then.
        """
        once = not isinstance(body, bytes | None)
        for attempt in range(ATTEMPTS):
            last = once or attempt == ATTEMPTS - 1
            try:
                reply = self._authorized(method, url, headers or {}, body, actions, once=once)
            except Failure as error:
                if last or not is_transient(error):
                    raise explain(endpoint_of(url).authority, error) from error
                self._sleep(FIRST_PAUSE * 2**attempt)
                continue
            if reply.status in accept:
                return reply
            if last or reply.status not in TRANSIENT:
                raise self._refusal(method, url, reply)
            pause = _retry_after(reply, FIRST_PAUSE * 2**attempt)
            reply.close()
            self._sleep(pause)
        raise OperationError("no attempt was made", code="registry.status")

    def close(self) -> None:
        """Close idle connections."""
        self._connections.close()

    def _authorized(
        self, method: str, url: str, headers: Mapping[str, str], body: Body, actions: str, *, once: bool
    ) -> Reply:
        reply = self._follow(method, url, headers, body, actions)
        # A body that was consumed cannot be sent again: such requests come after one that authenticated.
        if reply.status != 401 or once:
            return reply
        challenges = parse_challenges(reply.header("WWW-Authenticate"))
        try:
            header = self._answer(challenges, actions)
        except BaseException:
            reply.close()
            raise
        if header is None or header == self._headers.get(actions):
            return reply
        reply.close()
        self._headers[actions] = header
        return self._follow(method, url, headers, body, actions)

    def _follow(self, method: str, url: str, headers: Mapping[str, str], body: Body, actions: str) -> Reply:
        authorization = self._headers.get(actions)
        home = endpoint_of(self._base)
        for _ in range(MAX_REDIRECTS + 1):
            endpoint = endpoint_of(url)
            sent = dict(headers)
            if authorization is not None and endpoint == home:
                sent["Authorization"] = authorization
            reply = self._connections.send(method, url, sent, body)
            location = reply.header("Location")
            if reply.status not in REDIRECTS or not location or method not in ("GET", "HEAD"):
                return reply
            reply.close()
            url = urljoin(url, location)
            if endpoint.scheme == "https" and endpoint_of(url).scheme != "https":
                raise RefusedError(
                    "the registry redirects from https to http",
                    code="registry.redirect",
                    remedy="serve its storage with TLS",
                )
        raise OperationError(
            f"the registry redirects more than {MAX_REDIRECTS} times",
            code="registry.redirect",
            remedy="check the configuration of the registry",
        )

    def _answer(self, challenges: tuple[Challenge, ...], actions: str) -> str | None:
        for challenge in challenges:
            if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                return f"Bearer {self._token(challenge, actions)}"
            if challenge.scheme == "basic" and self._credentials is not None:
                return self._credentials.basic()
        return None

    def _token(self, challenge: Challenge, actions: str) -> str:
        """Ask the token service; anonymously without credentials, as public images need too."""
        query = {"scope": challenge.parameters.get("scope") or f"repository:{self.repository}:{actions}"}
        if service := challenge.parameters.get("service"):
            query["service"] = service
        realm = challenge.parameters["realm"]
        if endpoint_of(self._base).scheme == "https" and endpoint_of(realm).scheme != "https":
            raise RefusedError(
                "the registry's token service has no TLS",
                code="registry.redirect",
                remedy="serve the token service with TLS",
            )
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}"
        headers = {"Authorization": self._credentials.basic()} if self._credentials is not None else {}
        reply = self._connections.send("GET", url, headers)
        if reply.status != 200:
            raise self._refusal("GET", realm, reply)
        document = strictjson.parse_object(reply.read_all(MAX_ANSWER), what="token", limit=MAX_ANSWER)
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise OperationError(
                "the registry's token service gave no token",
                code="registry.token",
                remedy="look into the log of the token service",
            )
        return token

    def _refusal(self, method: str, url: str, reply: Reply) -> SealpodError:
        """The error for a status that was not accepted, with the registry's own words."""
        status, words = reply.status, _words(reply)
        authority = endpoint_of(url).authority
        text = f"the registry {authority} answered {status} to {method} for {self.repository}{words}"
        if status == 404:
            return NotFoundError(text, code="registry.not-found")
        if status == 401:
            remedy = (
                "log in (--auth-file), or check the name: a registry also says this for what does not exist"
            )
            return AccessError(text, code="registry.unauthorized", remedy=remedy)
        if status == 403:
            return AccessError(text, code="registry.denied", remedy="use an account that may do this")
        if status in TRANSIENT:
            return UnavailableError(text, code="registry.busy", remedy="try again later")
        return OperationError(text, code="registry.status", remedy="look into the log of the registry")


def _retry_after(reply: Reply, default: float) -> float:
    value = reply.header("Retry-After")
    return min(float(value), MAX_PAUSE) if value.isdecimal() and value.isascii() else default


def _words(reply: Reply) -> str:
    """``: CODE message`` out of an error document (distribution spec, "Error Codes"), or nothing."""
    try:
        document = strictjson.parse_object(reply.read_all(MAX_ANSWER), what="error", limit=MAX_ANSWER)
        first = strictjson.array(document, "errors", dict, what="error")[:1]
        parts = [str(first[0].get(name) or "") for name in ("code", "message")] if first else []
    except (SealpodError, *Failure):
        return ""
    finally:
        reply.close()
    text = " ".join(part for part in parts if part)[:200]
    return f": {text}" if text and text.isprintable() else ""
