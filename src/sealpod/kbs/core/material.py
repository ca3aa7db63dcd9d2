# SPDX-License-Identifier: Apache-2.0
"""What requests are answered with, one class per kind: the bytes, and the policies that must agree first."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final, Protocol

from sealpod.errors import DecodeError, NotFoundError, SealpodError, UsageError
from sealpod.kbs.core.asker import Asker
from sealpod.kbs.core.encoding import decode_base64, encode_base64
from sealpod.kbs.core.online import encode_map
from sealpod.kbs.core.policy import Rule
from sealpod.kbs.core.ports import ResourceFiles
from sealpod.kbs.core.records import Connection, StoredKeyset, StoredReportKey, StoredResource, StoredSecret
from sealpod.kbs.core.report import Freshness, report_text, signed_report
from sealpod.kbs.core.request import SecretRequest
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

    @property
    def released(self) -> tuple[str, ...]:
        """``type:id`` of everything in the payload, for the records."""

    def payload(self) -> SecretBytes:
        """:raise SealpodError: it cannot be answered."""


@dataclass(frozen=True, slots=True)
class KeyMaterial:
    """One secret, raw (``binary``) or as ``{"id": ..., "payload": <base64>}`` (``json``)."""

    request: SecretRequest
    secret: StoredSecret | None
    connections: tuple[Connection, ...] = ()

    @property
    def rules(self) -> tuple[Rule, ...]:
        return _rules(self.secret)

    @property
    def released(self) -> tuple[str, ...]:
        return (f"key:{self.request.id}",)

    def payload(self) -> SecretBytes:
        secret = _present(self.request.id, self.secret)
        raw = _decoded(secret)
        if self.request.format == "binary":
            return raw
        if self.request.format == "json":
            return _json({"id": secret.id, "payload": _text(secret)})
        raise UsageError(
            "Unknown format type", code="request.unknown-format", remedy="ask for binary or json"
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

    @property
    def released(self) -> tuple[str, ...]:
        return (f"bundle:{self.id}", *(f"key:{name}" for name, _ in self.secrets))

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

    @property
    def released(self) -> tuple[str, ...]:
        return (f"connection:{self.connection.client_id}",)

    def payload(self) -> SecretBytes:
        key = encode_base64(self.connection.key.reveal())
        return _json({"client_id": str(self.connection.client_id), "key": key})


@dataclass(frozen=True, slots=True)
class ReportMaterial:
    """A signed statement of what the launch was; with time, for who asks by nonce or audience."""

    request: SecretRequest
    key: StoredReportKey | None
    asker: Asker
    connections: tuple[Connection, ...] = ()

    @property
    def rules(self) -> tuple[Rule, ...]:
        return _rules(self.key)

    @property
    def released(self) -> tuple[str, ...]:
        return (f"report:{self.request.id}",)

    def payload(self) -> SecretBytes:
        if self.key is None:
            raise _unknown("report-key", self.request.id)
        text = report_text(self.asker.evidence, self.asker.platform, self._freshness())
        return signed_report(self.key, text)

    def _freshness(self) -> Freshness | None:
        if not self.request.nonce and not self.request.audience:
            return None
        made = int(self.asker.now)
        ends = made + int(self.asker.report_ttl)
        return Freshness(self.request.nonce, self.request.audience, made, ends)


@dataclass(frozen=True, slots=True)
class ResourceMaterial:
    """A file, raw (``binary``) or as simple-kbs' ``json``: a bincode map from the type to its base64."""

    request: SecretRequest
    resource: StoredResource | None
    files: ResourceFiles
    connections: tuple[Connection, ...] = ()

    @property
    def rules(self) -> tuple[Rule, ...]:
        return _rules(self.resource)

    @property
    def released(self) -> tuple[str, ...]:
        return (f"resource:{self.request.id}",)

    def payload(self) -> SecretBytes:
        if self.resource is None:
            raise _unknown("resource", self.request.id)
        if self.request.format not in ("binary", "json"):
            raise UsageError(
                "Unknown Secret Format", code="request.unknown-format", remedy="ask for binary or json"
            )
        content = self.files.read(self.resource.path)
        if self.request.format == "binary":
            return content
        return SecretBytes(encode_map([(self.request.id, encode_base64(content.reveal()).encode())]))


def _rules(found: StoredSecret | StoredReportKey | StoredResource | None) -> tuple[Rule, ...]:
    return () if found is None or found.rule is None else (found.rule,)


def _present(name: str, secret: StoredSecret | None) -> StoredSecret:
    if secret is None:
        raise _unknown("secret", name)
    return secret


def _unknown(noun: str, name: str) -> SealpodError:
    return NotFoundError(
        NO_ROWS, code=f"{noun}.unknown", remedy=f"the key owner sets it with `sealpod kbs {noun} set {name}`"
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
            remedy=f"the key owner sets it again with `sealpod kbs secret set {secret.id}`",
        ) from None


def _json(value: dict[str, str]) -> SecretBytes:
    return SecretBytes(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
