# SPDX-License-Identifier: Apache-2.0
"""What a caller asks for: the ``RequestDetails`` of the wire, checked before anything is looked up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Self

from sealpod.errors import DecodeError, UsageError
from sealpod.kbs.core.audit import MAX_LABEL
from sealpod.wire.binding import BINDING_NAME
from sealpod.wire.guid import NIL_GUID, parse_guid

MAX_REQUESTS: Final = 64
"""Secrets in one call: as many as Linux' efi_secret shows."""
MAX_ID: Final = 1024
"""Characters of an id: the width of the tables' columns."""
MAX_GUID_TEXT: Final = 128
"""Characters of an online reply's map key; simple-kbs takes any text there, its clients send a UUID."""
MAX_NONCE: Final = 256
"""Characters of a report's nonce and of its audience; a SHA-512 in hex has 128, a URL rarely more."""


class SecretKind(Enum):
    """The wire's secret types."""

    KEY = "key"
    """One secret; its id is a key id."""
    BUNDLE = "bundle"
    """All secrets of a keyset as one JSON object; its id is a keyset id."""
    CONNECTION = "connection"
    """A fresh client id and key for online requests; its id is ignored."""
    REPORT = "report"
    """A signed statement of what the launch was; its id is a report key's."""
    RESOURCE = "resource"
    """A file; its id is a resource type."""


@dataclass(frozen=True, slots=True)
class RawRequest:
    """One ``RequestDetails`` as it came."""

    guid: str
    format: str
    kind: str
    id: str
    nonce: str = ""
    audience: str = ""

    def texts(self) -> tuple[str, ...]:
        """All its texts in the order of their field numbers, as :mod:`sealpod.wire.binding` wants them."""
        return (self.guid, self.format, self.kind, self.id, self.nonce, self.audience)


@dataclass(frozen=True, slots=True)
class SecretRequest:
    """One request understood. ``guid`` is kept as sent: online replies echo it byte for byte.

    ``nonce`` and ``audience`` are for reports: who will read it, and the freshness that reader asked for.
    """

    guid: str
    format: str
    kind: SecretKind
    id: str
    nonce: str = ""
    audience: str = ""

    @classmethod
    def of(cls, raw: RawRequest, kind: SecretKind) -> Self:
        """``raw`` with its type understood."""
        return cls(raw.guid, raw.format.lower(), kind, raw.id, raw.nonce, raw.audience)

    def label(self) -> str:
        """``type:id`` for the records, cut to their measure."""
        text = self.kind.value if self.kind is SecretKind.CONNECTION else f"{self.kind.value}:{self.id}"
        return text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 1] + "…"


def parse_requests(raw: Sequence[RawRequest], *, guids_are_uuids: bool) -> tuple[SecretRequest, ...]:
    """All requests of a call. Types and formats are taken in any case.

    ``guids_are_uuids`` holds for the launch secret table, where a GUID is 16 bytes; an online reply is a
    map from text.

    :raise UsageError: an unknown type, too many requests, a text too long, or a GUID that stands twice or is
        the name of a reply's binding.
    :raise DecodeError: not a GUID, where one is needed.
    """
    if len(raw) > MAX_REQUESTS:
        raise UsageError(f"{len(raw)} secrets in one request, {MAX_REQUESTS} are possible", code=_CODE)
    requests = tuple(_parse(one) for one in raw)
    keys = [_entry_key(one.guid) if guids_are_uuids else one.guid for one in requests]
    if len(set(keys)) != len(keys):
        raise UsageError(
            "two secrets have the same GUID",
            code="request.duplicate-guid",
            remedy="ask for each secret under a GUID of its own",
        )
    if BINDING_NAME in keys:
        raise UsageError(
            f"the name {BINDING_NAME} is the broker's own",
            code="request.reserved-guid",
            remedy="ask for each secret under a fresh GUID",
        )
    return requests


_CODE: Final = "request.malformed"


def _parse(raw: RawRequest) -> SecretRequest:
    if len(raw.id) > MAX_ID:
        raise UsageError(f"a secret id has more than {MAX_ID} characters", code=_CODE)
    if len(raw.guid) > MAX_GUID_TEXT:
        raise UsageError(f"a GUID has more than {MAX_GUID_TEXT} characters", code=_CODE)
    for text in (raw.nonce, raw.audience):
        if len(text) > MAX_NONCE or not text.isprintable():
            raise UsageError(f"a nonce or audience is {MAX_NONCE} printable characters at most", code=_CODE)
    # Upper-case first letters and the like are what Kata sends; casefold would also take "ß" for "ss".
    name = raw.kind.lower()
    for kind in SecretKind:
        if kind.value == name:
            return SecretRequest.of(raw, kind)
    raise UsageError(
        "Unknown Secret Type",
        code="request.unknown-type",
        remedy="ask for a key, bundle, connection, report or resource",
    )


def _entry_key(text: str) -> str:
    guid = parse_guid(text)
    if guid == NIL_GUID:
        raise DecodeError("the nil GUID marks deleted secrets", code="request.nil-guid")
    return str(guid)
