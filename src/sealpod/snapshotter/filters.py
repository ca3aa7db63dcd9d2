# SPDX-License-Identifier: Apache-2.0
"""containerd's filters: ``field==value``, ``!=`` and presence; a comma means and, several mean or.

Fields are ``name``, ``parent``, ``kind`` and ``labels.NAME``; names and values may be quoted as Go quotes.
Left out: regular expressions (``~=``), which containerd itself never sends to a snapshotter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Final

from sealpod.errors import UsageError
from sealpod.snapshotter.rows import Snapshot
from sealpod.wire.snapshotapi import ACTIVE, COMMITTED, VIEW

Filter = Callable[[Snapshot], bool]

KINDS: Final = {VIEW: "view", ACTIVE: "active", COMMITTED: "committed"}
MAX_FILTERS: Final = 64
_QUOTED: Final = r'"(?:[^"\\]|\\.)*"'
_TERM: Final = re.compile(
    rf"(?P<field>[a-z]+)(?:\.(?P<label>{_QUOTED}|[\w./-]+))?(?:(?P<op>==|!=)(?P<value>{_QUOTED}|[^,\"\s]+))?"
    r"(?P<end>,|$)"
)


def parse(filters: Iterable[str]) -> Filter:
    """A filter that lets through what any of ``filters`` does; without any, or with an empty one, everything.

    :raise UsageError: text that is no filter.
    """
    texts = list(filters)
    if len(texts) > MAX_FILTERS:
        raise UsageError(f"{len(texts)} filters; at most {MAX_FILTERS} are read", code="snapshotter.filter")
    alternatives = [_parse(text) for text in texts]
    if not alternatives:
        return lambda _snapshot: True
    return lambda snapshot: any(matches(snapshot) for matches in alternatives)


def _parse(text: str) -> Filter:
    terms: list[Filter] = []
    place = 0
    while place < len(text):
        match = _TERM.match(text, place)
        if match is None or (match["end"] and match.end() == len(text)):
            raise _unreadable(text)
        terms.append(_term(match, text))
        place = match.end()
    return lambda snapshot: all(matches(snapshot) for matches in terms)


def _term(match: re.Match[str], text: str) -> Filter:
    field, label = match["field"], _unquote(match["label"] or "", text)
    if field not in ("name", "parent", "kind", "labels") or bool(label) != (field == "labels"):
        raise _unreadable(text)
    operator, value = match["op"], _unquote(match["value"] or "", text)

    def matches(snapshot: Snapshot) -> bool:
        found = _value(snapshot, field, label)
        if operator is None:
            return bool(found)
        return (found == (value.lower() if field == "kind" else value)) == (operator == "==")

    return matches


def _value(snapshot: Snapshot, field: str, label: str) -> str:
    if field == "labels":
        return snapshot.labels.get(label, "")
    values = {"name": snapshot.name, "parent": snapshot.parent, "kind": KINDS[snapshot.kind]}
    return values[field]


def _unquote(text: str, whole: str) -> str:
    if not text.startswith('"'):
        return text
    try:
        # The escapes that Go writes for names and digests are JSON's too.
        return str(json.loads(text))
    except ValueError:
        raise _unreadable(whole) from None


def _unreadable(text: str) -> UsageError:
    return UsageError(
        f"not a filter: {text[:100]!r}",
        code="snapshotter.filter",
        remedy="name, parent, kind and labels.NAME can be compared with == and !=",
    )
