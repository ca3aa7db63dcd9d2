# SPDX-License-Identifier: Apache-2.0
"""From a request to the bytes it is answered with, and the policies that must agree first.

Looking up and answering are two steps: the policies of everything asked for are known, and checked, before
the first payload is made, and a key that does not exist is said only to a caller with a launch in progress.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

from sealpod.errors import DecodeError, NotFoundError, SealpodError, UsageError
from sealpod.kbs.core.encoding import decode_base64, encode_base64
from sealpod.kbs.core.evidence import Evidence
from sealpod.kbs.core.online import CONNECTION_KEY_SIZE
from sealpod.kbs.core.policy import Rule
from sealpod.kbs.core.ports import BrokerStore
from sealpod.kbs.core.records import Connection, StoredKeyset, StoredSecret
from sealpod.kbs.core.request import SecretKind, SecretRequest
from sealpod.secret import SecretBytes

MAX_SECRET: Final = 1 << 20
"""Bytes of one decoded secret. The tables' column takes 768; other databases may have wider ones."""
NO_ROWS: Final = "no rows returned by a query that expected to return at least one row"
"""simple-kbs' words (its SQL library's) for an id that is not there."""


class Material(Protocol):
    """What answers one request."""

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Policies that must all agree."""

    @property
    def connections(self) -> tuple[Connection, ...]:
        """Connections to keep when the payload goes out."""

    def payload(self) -> SecretBytes:
        """:raise SealpodError: it cannot be answered."""


def gather(
    store: BrokerStore, request: SecretRequest, evidence: Evidence, rng: Callable[[int], bytes]
) -> Material:
    """Look up what a request needs.

    :raise SealpodError: a policy or record that cannot be read: no release.
    """
    if request.kind is SecretKind.KEY:
        return KeyMaterial(request, store.find_secret(request.id))
    if request.kind is SecretKind.BUNDLE:
        keyset = store.find_keyset(request.id)
        members = () if keyset is None else tuple(dict.fromkeys(keyset.members))
        return BundleMaterial(request.id, keyset, tuple((name, store.find_secret(name)) for name in members))
    return ConnectionMaterial(new_connection(evidence, rng))


@dataclass(frozen=True, slots=True)
class KeyMaterial:
    """One secret, raw (``binary``) or as ``{"id": ..., "payload": <base64>}`` (``json``)."""

    request: SecretRequest
    secret: StoredSecret | None
    connections: tuple[Connection, ...] = ()

    @property
    def rules(self) -> tuple[Rule, ...]:
        return _rules(self.secret)

    def payload(self) -> SecretBytes:
        secret = _present(self.request.id, self.secret)
        raw = _decoded(secret)
        if self.request.format == "binary":
            return raw
        if self.request.format == "json":
            return _json({"id": secret.id, "payload": _text(secret)})
        raise UsageError(
            "Unknown format type", code="request.unknown-format", remedy="Ask for binary or json"
        )


@dataclass(frozen=True, slots=True)
class BundleMaterial:
    """A keyset as ``{"<key id>": "<base64>", ...}``, in the keyset's order.

    A keyset that does not exist is an error here; simple-kbs answers ``{}``, which the guest takes and
    then misses its keys.
    """

    id: str
    keyset: StoredKeyset | None
    secrets: tuple[tuple[str, StoredSecret | None], ...]
    connections: tuple[Connection, ...] = ()

    @property
    def rules(self) -> tuple[Rule, ...]:
        own = () if self.keyset is None or self.keyset.rule is None else (self.keyset.rule,)
        return own + tuple(rule for _, secret in self.secrets for rule in _rules(secret))

    def payload(self) -> SecretBytes:
        if self.keyset is None:
            raise _unknown("keyset", self.id)
        values: dict[str, str] = {}
        for name, found in self.secrets:
            secret = _present(name, found)
            # One value that is not base64 makes the guest refuse the whole bundle.
            _decoded(secret)
            values[secret.id] = _text(secret)
        return _json(values)


@dataclass(frozen=True, slots=True)
class ConnectionMaterial:
    """A fresh connection as ``{"client_id": ..., "key": <base64>}``."""

    connection: Connection
    rules: tuple[Rule, ...] = ()

    @property
    def connections(self) -> tuple[Connection, ...]:
        return (self.connection,)

    def payload(self) -> SecretBytes:
        key = encode_base64(self.connection.key.reveal())
        return _json({"client_id": str(self.connection.client_id), "key": key})


def new_connection(evidence: Evidence, rng: Callable[[int], bytes]) -> Connection:
    """A connection for the launch ``evidence`` tells of."""
    client_id = UUID(bytes=rng(16), version=4)
    return Connection(client_id, SecretBytes(rng(CONNECTION_KEY_SIZE)), evidence)


def _rules(secret: StoredSecret | None) -> tuple[Rule, ...]:
    return () if secret is None or secret.rule is None else (secret.rule,)


def _present(name: str, secret: StoredSecret | None) -> StoredSecret:
    if secret is None:
        raise _unknown("secret", name)
    return secret


def _unknown(noun: str, name: str) -> SealpodError:
    return NotFoundError(
        NO_ROWS, code=f"{noun}.unknown", remedy=f"The key owner sets it with `sealpod kbs {noun} set {name}`"
    )


def _text(secret: StoredSecret) -> str:
    return secret.value.reveal().decode()


def _decoded(secret: StoredSecret) -> SecretBytes:
    try:
        return SecretBytes(decode_base64(_text(secret), limit=MAX_SECRET))
    except DecodeError:
        # The decoder's words tell a position and a byte of the secret.
        raise DecodeError(
            "Invalid Secret Format",
            code="secret.malformed",
            remedy=f"The key owner sets it again with `sealpod kbs secret set {secret.id}`",
        ) from None


def _json(value: dict[str, str]) -> SecretBytes:
    return SecretBytes(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
