# SPDX-License-Identifier: Apache-2.0
"""``sealpod kbs NOUN VERB --server URL``: the same verbs, asked of a broker's admin API.

The token comes from a file, and plain HTTP goes to this machine only.
"""

from __future__ import annotations

import argparse
import http.client
import json
import ssl
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

from sealpod import errors
from sealpod.cli.kbs_admin_suggest import suggest_and_keep
from sealpod.cli.kbs_admin_trial import print_trial, test_body
from sealpod.cli.kbs_common import print_done, print_object
from sealpod.cli.kbs_nouns import named, print_found, print_note
from sealpod.kbs.admin.noun import DONE, Noun
from sealpod.kbs.admin.nouns import BY_NOUN
from sealpod.secret import SecretBytes

TIMEOUT: Final = 30.0
"""Seconds for a request."""
MAX_ANSWER: Final = 64 << 20
"""Bytes; a list of all secrets."""

_FAMILIES: Final[dict[int, type[errors.SealpodError]]] = {
    400: errors.UsageError,
    401: errors.AccessError,
    403: errors.RefusedError,
    404: errors.NotFoundError,
    409: errors.ConflictError,
    413: errors.UsageError,
    503: errors.UnavailableError,
}


class Remote:
    """A broker's admin API at ``url``."""

    def __init__(self, url: str, *, token: str | None = None, context: ssl.SSLContext | None = None) -> None:
        """:raise UsageError: not a URL the API can be asked at."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
            raise errors.UsageError(
                f"not the URL of an admin API: {url[:80]!r}",
                code="admin.url",
                remedy="for instance https://kbs.example:44445",
            )
        from sealpod.kbs.server.config import is_loopback

        if parts.scheme == "http" and not is_loopback(parts.hostname):
            raise errors.UsageError(
                "plain HTTP is for this machine only", code="admin.plaintext", remedy="use https"
            )
        self._host, self._port = parts.hostname, parts.port
        self._context = (context or ssl.create_default_context()) if parts.scheme == "https" else None
        self._token = token

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's JSON; None when it has none.

        :raise UnavailableError: nobody answers. :raise SealpodError: as the broker says.
        """
        headers = {} if self._token is None else {"authorization": f"Bearer {self._token}"}
        data = None if body is None else json.dumps(body, default=_encoded).encode()
        link = self._connect()
        try:
            link.request(method, path, body=data, headers=headers)
            answer = link.getresponse()
            raw = answer.read(MAX_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            raise errors.UnavailableError(
                f"the admin API at {self._host} does not answer ({type(error).__name__})",
                code="admin.unreachable",
                remedy="start the broker with --admin-listen, check address, certificate and authorities",
            ) from None
        finally:
            link.close()
        value = _decode(raw) if raw else None
        if answer.status >= 300:
            raise _refusal(answer.status, value, with_token=self._token is not None)
        return value

    def _connect(self) -> http.client.HTTPConnection:
        if self._context is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT)
        return http.client.HTTPSConnection(self._host, self._port, timeout=TIMEOUT, context=self._context)


def run(args: argparse.Namespace) -> int:
    """Ask the server for what the command line wants of the database."""
    name, verb = getattr(args, "noun", ""), args.verb
    noun = BY_NOUN.get(name)
    if noun is None or verb not in (*_ACTIONS, *_MORE.get(name, {}), noun.api_end, "delete"):
        raise errors.UsageError(
            f"`{' '.join(word for word in (name, verb) if word)}` needs the database",
            code="admin.verb",
            remedy="leave out --server, and give --database",
        )
    return {**_ACTIONS, **_MORE.get(name, {})}.get(verb, _end)(connect(args), noun, args)


def connect(args: argparse.Namespace) -> Remote:
    """:raise SealpodError: a file cannot be read."""
    from sealpod.kbs.server.files import read_private

    token = None
    if args.token_file is not None:
        words = read_private(args.token_file, "admin token").decode("utf-8", "replace").split()
        if not words:
            raise errors.UsageError(f"{args.token_file!r} holds no token", code="admin.token-file")
        token = words[-1]
    return Remote(args.server, token=token, context=_context(args))


def _context(args: argparse.Namespace) -> ssl.SSLContext:
    from sealpod.sandbox.brokertls import client_context

    return client_context(args.ca, args.client_cert or "")


def _list(remote: Remote, noun: Noun, args: argparse.Namespace) -> int:
    # The API lists them all; what the options choose by a member is chosen here.
    chosen = noun.chosen(args)
    limit = chosen.pop("limit", None)
    wanted = {member: value for member, value in chosen.items() if value is not None}
    found = remote.ask("GET", f"/v1/{noun.name}")[noun.key]
    print_found(args, noun, [one for one in found if wanted.items() <= one.items()][:limit])
    return 0


def _show(remote: Remote, noun: Noun, args: argparse.Namespace) -> int:
    reveal = "?reveal=true" if noun.reveals and args.reveal else ""
    print_object(args, remote.ask("GET", _path(noun, named(args)) + reveal))
    return 0


def _set(remote: Remote, noun: Noun, args: argparse.Namespace) -> int:
    key = named(args)
    body = noun.sets().reads(args)
    print_note(noun, key, body)
    print_done(args, f"{noun.noun} {key} set", remote.ask("PUT", _path(noun, key), body))
    return 0


def _end(remote: Remote, noun: Noun, args: argparse.Namespace) -> int:
    if args.verb != noun.api_end:
        raise errors.UsageError(
            f"the admin API withdraws {noun.name} and keeps their rows",
            code="admin.verb",
            remedy=f"use `{noun.noun} {noun.api_end}`, or --database",
        )
    key, done = named(args), DONE[args.verb]
    remote.ask("DELETE", _path(noun, key))
    print_done(args, f"{noun.noun} {key} {done}", {noun.id: key, done: True})
    return 0


def _test(remote: Remote, _noun: Noun, args: argparse.Namespace) -> int:
    return print_trial(args, remote.ask("POST", "/v1/policy-test", test_body(args)))


def _suggest(remote: Remote, noun: Noun, args: argparse.Namespace) -> int:
    from sealpod.kbs.admin.rules import rule_object

    return suggest_and_keep(args, lambda name, rule: remote.ask("PUT", _path(noun, name), rule_object(rule)))


_Action = Callable[[Remote, Noun, argparse.Namespace], int]
_ACTIONS: Final[Mapping[str, _Action]] = {"list": _list, "show": _show, "set": _set}
_MORE: Final[Mapping[str, Mapping[str, _Action]]] = {"policy": {"test": _test, "suggest": _suggest}}


def _path(noun: Noun, key: str) -> str:
    # An argument that is not UTF-8 goes as it is, and the broker says so.
    return f"/v1/{noun.name}/{quote(key, safe='', errors='surrogateescape')}"


def _encoded(value: object) -> str:
    """What JSON has no form for: secret values, which are base64 in a request."""
    if isinstance(value, SecretBytes):
        return b64encode(value.reveal()).decode()
    raise TypeError(f"a {type(value).__name__} has no JSON form")


def _decode(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise errors.DecodeError("the admin API's answer is not JSON", code="admin.answer") from None


def _refusal(status: int, value: Any, *, with_token: bool) -> errors.SealpodError:
    error = value.get("error", {}) if isinstance(value, dict) else {}
    family = _FAMILIES.get(status, errors.OperationError)
    remedy = str(error.get("remedy", ""))[:1000]
    if status == 401:
        # What the broker says is for who sends the header.
        remedy = "check the token with the broker's owner" if with_token else "give it with --token-file FILE"
    return family(
        str(error.get("message", f"HTTP status {status}"))[:1000],
        code=str(error.get("code", "admin.answer"))[:80],
        remedy=remedy,
    )
