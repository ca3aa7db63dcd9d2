# SPDX-License-Identifier: Apache-2.0
"""One record per decision, and the chain that shows when one was changed or taken away.

A record says who asked for what on what evidence, what the broker said, and why. Its text is JSON in ASCII;
each record's hash covers the one before it::

    hash(0) = 64 zeros
    hash(n) = SHA-256("sealpod audit 1" LF n LF hash(n-1) LF record(n)), lower-case hex

So whoever keeps one hash outside of the database (a printed head, a log line, a webhook's receiver) can tell
later that nothing up to it was changed, added or removed. Nobody can tell from the database alone that its
newest records were cut off; that is what such a hash is for.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final, Literal

from sealpod.errors import DecodeError, VerificationError

Outcome = Literal["granted", "refused", "failed"]

GENESIS: Final = "0" * 64
"""The hash before the first record."""
MAX_LABEL: Final = 80
"""Characters kept of what a stranger asked for; ids that were released are kept whole."""
MAX_VALUES: Final = 8
"""Allowed values quoted of a policy that refused; a policy may list thousands."""

REMEDY: Final = "compare with an export, log or webhook kept elsewhere; who can write to the database?"

_PREFIX: Final = b"sealpod audit 1"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the peer's address as the transport has it, its certificate's name if it showed one, and the
    number of this request."""

    peer: str = ""
    identity: str = ""
    request: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """The first rule that did not hold, with both values."""

    policy: str
    rule: str
    allowed: tuple[object, ...]
    actual: object


@dataclass(slots=True)
class Decision:
    """What one call decided. Filled while the call goes on; never holds secret bytes.

    ``secrets`` are the ``type:id`` labels asked for, ``released`` the ids of the secrets that went out.
    ``root`` names the trust root the platform's chain ended in; ``platform`` is ``model`` or ``silicon``.
    ``rules`` are the policies that agreed, ``failed`` the one that did not; ``reason`` is the text the
    caller got.
    """

    call: str
    outcome: Outcome = "failed"
    code: str = ""
    request: str = ""
    time: str = ""
    peer: str = ""
    identity: str = ""
    launch: str = ""
    client: str = ""
    platform: str = ""
    root: str = ""
    ark: str = ""
    chain: str = ""
    chip: str = ""
    policy: str = ""
    digest: str = ""
    firmware: str = ""
    secrets: tuple[str, ...] = ()
    released: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    failed: Failure | None = None
    description: str = ""
    reason: str = ""

    def line(self) -> str:
        """``key=value`` pairs in one ASCII line; values as JSON, so that no value can pretend to be two."""
        return " ".join(f"{name}={json.dumps(value)}" for name, value in self._pairs())

    def record(self) -> str:
        """The same as one JSON object: the text that is chained."""
        return json.dumps(dict(self._pairs()), separators=(",", ":"))

    def _pairs(self) -> Iterator[tuple[str, object]]:
        for name in _NAMES:
            value = getattr(self, name)
            if isinstance(value, Failure):
                value = {part: getattr(value, part) for part in ("policy", "rule", "allowed", "actual")}
            if value:
                yield name, value


_NAMES: Final = tuple(one.name for one in fields(Decision))


@dataclass(frozen=True, slots=True)
class Entry:
    """One record in its place in the chain."""

    number: int
    hash: str
    record: str

    def fields(self) -> dict[str, Any]:
        """The record's fields. :raise DecodeError: it is no JSON object."""
        try:
            value = json.loads(self.record)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise DecodeError(f"audit record {self.number} is not a JSON object", code="audit.malformed")
        return value


def timestamp(seconds: float) -> str:
    """UTC with microseconds, RFC 3339."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def chain_hash(number: int, previous: str, record: str) -> str:
    """The hash of record ``number`` after the one with hash ``previous``."""
    return hashlib.sha256(
        b"\n".join((_PREFIX, b"%d" % number, previous.encode(), record.encode()))
    ).hexdigest()


def chain(records: Iterable[str], *, number: int, previous: str) -> Iterator[Entry]:
    """``records`` as the entries that follow entry ``number``, whose hash is ``previous``."""
    for record in records:
        number += 1
        previous = chain_hash(number, previous, record)
        yield Entry(number, previous, record)


def verify_entries(entries: Iterable[Entry], head: Entry, *, anchor: str | None = None) -> int:
    """Check a whole chain, in order, and give the number of its records.

    1. numbers go 1, 2, 3, ... (a removed, added or moved record); 2. each hash covers its record and the
    hash before (a changed one); 3. the last record is the one the head names (records cut off at the end by
    who forgot the head); 4. ``anchor``, a hash noted earlier, is among them (who did not forget it).

    ``head.record`` is not looked at.

    :raise VerificationError: ``audit.broken`` naming the first record that is wrong; ``audit.truncated``.
    """
    number, previous = 0, GENESIS
    found = anchor is None or _same(anchor, GENESIS)
    for entry in entries:
        if entry.number != number + 1:  # (1)
            raise _broken(number + 1, f"is missing; record {entry.number} is in its place")
        if not _same(chain_hash(entry.number, previous, entry.record), entry.hash):  # (2)
            raise _broken(entry.number, "was changed, or the one before it was")
        number, previous = entry.number, entry.hash
        found = found or (anchor is not None and _same(anchor, previous))
    if number != head.number or not _same(previous, head.hash):  # (3)
        raise _truncated(f"the log ends at record {number}, its head says {head.number}")
    if not found:  # (4)
        raise _truncated("the given head is not in the log")
    return number


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def _broken(number: int, what: str) -> VerificationError:
    return VerificationError(f"audit record {number} {what}", code="audit.broken", remedy=REMEDY)


def _truncated(message: str) -> VerificationError:
    return VerificationError(message, code="audit.truncated", remedy=REMEDY)
