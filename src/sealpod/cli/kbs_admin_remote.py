# SPDX-License-Identifier: Apache-2.0
"""``sealpod kbs NOUN VERB --server URL``: the same verbs, asked of a broker's admin API.

The token comes from a file, and plain HTTP goes to this machine only.
"""

from __future__ import annotations

import argparse
import http.client
import json
import ssl
import sys
from base64 import b64encode
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from sealpod import errors
from sealpod.cli.kbs_common import print_done, print_list, print_object, read_secret_file

if TYPE_CHECKING:
    from sealpod.kbs.server.admin.nouns import Noun

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
                remedy="For instance https://kbs.example:44445",
            )
        from sealpod.kbs.server.config import is_loopback

        if parts.scheme == "http" and not is_loopback(parts.hostname):
            raise errors.UsageError(
                "plain HTTP is for this machine only", code="admin.plaintext", remedy="Use https"
            )
        self._host, self._port = parts.hostname, parts.port
        self._context = (context or ssl.create_default_context()) if parts.scheme == "https" else None
        self._token = token

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's JSON; None when it has none.

        :raise UnavailableError: nobody answers. :raise SealpodError: as the broker says.
        """
        headers = {} if self._token is None else {"authorization": f"Bearer {self._token}"}
        data = None if body is None else json.dumps(body).encode()
        link = self._connect()
        try:
            link.request(method, path, body=data, headers=headers)
            answer = link.getresponse()
            raw = answer.read(MAX_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            raise errors.UnavailableError(
                f"the admin API at {self._host} does not answer ({type(error).__name__})",
                code="admin.unreachable",
                remedy="Start the broker with --admin-listen, check address, certificate and authorities",
            ) from None
        finally:
            link.close()
        value = _decode(raw) if raw else None
        if answer.status >= 300:
            raise _refusal(answer.status, value)
        return value

    def _connect(self) -> http.client.HTTPConnection:
        if self._context is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT)
        return http.client.HTTPSConnection(self._host, self._port, timeout=TIMEOUT, context=self._context)


def run(args: argparse.Namespace) -> int:
    """Ask the server for what the command line wants of the database."""
    from sealpod.kbs.server.admin.nouns import BY_NOUN

    name, verb = getattr(args, "noun", ""), args.verb
    noun = BY_NOUN.get(name)
    action = None if noun is None else _ACTIONS.get((name, verb)) or _ACTIONS.get(("", verb))
    if noun is None or action is None:
        raise errors.UsageError(
            f"`{' '.join(word for word in (name, verb) if word)}` needs the database",
            code="admin.verb",
            remedy="Leave out --server, and give --database",
        )
    return action(connect(args), noun, args)


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
    found = remote.ask("GET", f"/v1/{noun.name}")[noun.key]
    if args.noun == "connection" and not args.all:
        found = [one for one in found if one["active"]]
    print_list(args, noun.key, found, noun.header)
    return 0


def _show(remote: Remote, noun: Noun, args: argparse.Namespace) -> int:
    reveal = "?reveal=true" if getattr(args, "reveal", False) else ""
    print_object(args, remote.ask("GET", _path(noun, args) + reveal))
    return 0


def _set(remote: Remote, noun: Noun, args: argparse.Namespace) -> int:
    shown = remote.ask("PUT", _path(noun, args), _BODIES[args.noun](args))
    print_done(args, f"{args.noun} {_key(noun, args)} set", shown)
    return 0


def _delete(remote: Remote, noun: Noun, args: argparse.Namespace) -> int:
    remote.ask("DELETE", _path(noun, args))
    done = {"revoke": "revoked", "delete": "deleted"}[args.verb]
    print_done(args, f"{args.noun} {_key(noun, args)} {done}", {noun.id: _key(noun, args), done: True})
    return 0


def _test(remote: Remote, _noun: Noun, args: argparse.Namespace) -> int:
    from sealpod.cli.kbs_admin_trial import print_trial, test_body

    return print_trial(args, remote.ask("POST", "/v1/policy-test", test_body(args)))


def _suggest(remote: Remote, noun: Noun, args: argparse.Namespace) -> int:
    from sealpod.cli.kbs_admin_suggest import suggest_and_keep
    from sealpod.kbs.server.admin.objects import rule_object

    return suggest_and_keep(
        args,
        lambda name, rule: remote.ask("PUT", f"/v1/{noun.name}/{quote(name, safe='')}", rule_object(rule)),
    )


def _no_delete(_remote: Remote, _noun: Noun, _args: argparse.Namespace) -> int:
    raise errors.UsageError(
        "the admin API withdraws connections and keeps their rows",
        code="admin.verb",
        remedy="Use `connection revoke`, or --database",
    )


_ACTIONS: Final[dict[tuple[str, str], Callable[[Remote, Any, argparse.Namespace], int]]] = {
    ("", "list"): _list,
    ("", "show"): _show,
    ("", "set"): _set,
    ("", "delete"): _delete,
    ("connection", "revoke"): _delete,
    ("connection", "delete"): _no_delete,
    ("policy", "test"): _test,
    ("policy", "suggest"): _suggest,
}


def _secret_body(args: argparse.Namespace) -> dict[str, Any]:
    value = read_secret_file(args.from_file)
    return {"value": b64encode(value.reveal()).decode(), "policy": args.policy}


def _keyset_body(args: argparse.Namespace) -> dict[str, Any]:
    return {"secrets": args.secrets, "policy": args.policy}


def _policy_body(args: argparse.Namespace) -> dict[str, Any]:
    from sealpod.cli.kbs_policy import rule_of
    from sealpod.kbs.core.policy import ALLOW_ALL
    from sealpod.kbs.server.admin.objects import rule_object

    rule = rule_of(args)
    if rule == ALLOW_ALL:
        print(f"sealpod: note: policy {args.name} allows every launch", file=sys.stderr)
    return rule_object(rule)


def _resource_body(args: argparse.Namespace) -> dict[str, Any]:
    return {"type": args.kind, "path": args.path, "policy": args.policy}


def _report_key_body(args: argparse.Namespace) -> dict[str, Any]:
    if args.generate:
        return {"policy": args.policy}
    key = read_secret_file(args.from_file)
    return {"privateKey": b64encode(key.reveal()).decode(), "policy": args.policy}


_BODIES: Final[dict[str, Callable[[argparse.Namespace], dict[str, Any]]]] = {
    "secret": _secret_body,
    "keyset": _keyset_body,
    "policy": _policy_body,
    "resource": _resource_body,
    "report-key": _report_key_body,
}


def _key(noun: Noun, args: argparse.Namespace) -> str:
    return str(getattr(args, noun.id))


def _path(noun: Noun, args: argparse.Namespace) -> str:
    return f"/v1/{noun.name}/{quote(_key(noun, args), safe='')}"


def _decode(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise errors.DecodeError("the admin API's answer is not JSON", code="admin.answer") from None


def _refusal(status: int, value: Any) -> errors.SealpodError:
    error = value.get("error", {}) if isinstance(value, dict) else {}
    family = _FAMILIES.get(status, errors.OperationError)
    return family(
        str(error.get("message", f"HTTP status {status}"))[:1000],
        code=str(error.get("code", "admin.answer"))[:80],
        remedy=str(error.get("remedy", ""))[:1000],
    )
