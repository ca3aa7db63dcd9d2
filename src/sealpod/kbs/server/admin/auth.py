# SPDX-License-Identifier: Apache-2.0
"""Who may use the admin API: bearer tokens from a private file, certificates by TLS, or both.

A token file has one token a line, ``NAME TOKEN`` or ``TOKEN`` alone; ``#`` begins a comment. Several lines
let tokens be exchanged one after the other. The file is read again when it changes. Only digests of the
tokens are kept, and they are compared in constant time, all of them for every request.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final

from sealpod.errors import AccessError, UsageError
from sealpod.kbs.server.config import AdminConfig, is_loopback, split_listen
from sealpod.kbs.server.files import Watched, read_private

MIN_TOKEN: Final = 32
"""Characters. ``openssl rand -base64 32`` gives 44; nobody can try those out."""
MAX_TOKEN: Final = 512
DEFAULT_NAME: Final = "admin"

_LINE: Final = re.compile(rb"(?:(?P<name>[A-Za-z0-9._-]{1,64})[ \t]+)?(?P<token>[!-~]+)")
_SCHEME: Final = "bearer "


@dataclass(frozen=True, slots=True)
class Token:
    """A token's name and its SHA-256."""

    name: str
    digest: bytes


class Gatekeeper:
    """Says who a request is from."""

    def __init__(self, config: AdminConfig) -> None:
        """:raise UsageError: anybody could come in (``admin.open``) or listen (``admin.plaintext``).
        :raise SealpodError: the token file cannot be read, or is not private.
        """
        certificates = config.tls is not None and config.tls.client_ca is not None
        if config.token_file is None and not certificates:
            raise UsageError(
                "the admin API needs a token or client certificates",
                code="admin.open",
                remedy="give --admin-token-file, or --admin-tls-client-ca",
            )
        if config.tls is None and not is_loopback(split_listen(config.listen)[0]):
            raise UsageError(
                "the admin API without TLS answers on loopback only",
                code="admin.plaintext",
                remedy="give --admin-tls-cert and --admin-tls-key, or an address of this machine's own",
            )
        path = config.token_file
        self._tokens = None if path is None else Watched((path,), lambda: read_tokens(path))

    def identify(self, authorization: str | None, certificate: str) -> str:
        """``token:NAME``, ``cert:NAME`` or both, for the records.

        :raise AccessError: ``admin.unauthorized``.
        """
        names = []
        if self._tokens is not None:
            names.append(f"token:{_match(self._tokens.get(), authorization)}")
        if certificate:
            names.append(f"cert:{certificate}")
        return " ".join(names) or "cert:"

    def reload(self) -> None:
        """Read the token file again, changed or not."""
        if self._tokens is not None:
            self._tokens.reload()


def read_tokens(path: str) -> tuple[Token, ...]:
    """:raise UsageError: no tokens, or a line that is none. :raise SealpodError: as ``read_private``."""
    lines = [line.strip() for line in read_private(path, "admin tokens").splitlines()]
    tokens = tuple(_token(line, path) for line in lines if line and not line.startswith(b"#"))
    if not tokens:
        raise _no_tokens(path, "holds no token")
    return tokens


def _token(line: bytes, path: str) -> Token:
    match = _LINE.fullmatch(line)
    if match is None or not MIN_TOKEN <= len(match["token"]) <= MAX_TOKEN:
        raise _no_tokens(path, f"has a line without a token of {MIN_TOKEN} to {MAX_TOKEN} characters")
    return Token((match["name"] or DEFAULT_NAME.encode()).decode(), hashlib.sha256(match["token"]).digest())


def _no_tokens(path: str, what: str) -> UsageError:
    return UsageError(
        f"{path!r} {what}", code="admin.token-file", remedy="`openssl rand -base64 32` makes a token"
    )


def _match(tokens: tuple[Token, ...], authorization: str | None) -> str:
    given = authorization or ""
    word = given[len(_SCHEME) :].strip() if given[: len(_SCHEME)].lower() == _SCHEME else ""
    digest = hashlib.sha256(word[:MAX_TOKEN].encode("utf-8", "surrogateescape")).digest()
    found = None
    for token in tokens:
        if hmac.compare_digest(token.digest, digest):
            found = token.name
    if found is None:
        raise AccessError(
            "no valid token", code="admin.unauthorized", remedy="send `Authorization: Bearer TOKEN`"
        )
    return found
