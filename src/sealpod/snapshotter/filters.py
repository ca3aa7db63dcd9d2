# SPDX-License-Identifier: Apache-2.0
"""containerd's filters: ``field==value``, ``!=`` and presence; a comma means and, several mean or."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Final

from sealpod.errors import UsageError
from sealpod.snapshotter.store import Snapshot
from sealpod.wire.snapshotapi import ACTIVE, COMMITTED, VIEW

Filter = Callable[[Snapshot], bool]

KINDS: Final = {VIEW: "View", ACTIVE: "Active", COMMITTED: "Committed"}
_QUOTED: Final = r'"(?:[^"\\]|\\.)*"'
_TERM: Final = re.compile(
    rf"(?P<field>[a-z]+)(?:\.(?P<label>{_QUOTED}|[\w./-]+))?(?:(?P<op>==|!=)(?P<value>{_QUOTED}|[^,\"]*))?(?:,|$)"
)


def parse(filters: Iterable[str]) -> Filter:
    """A filter that lets through what any of ``filters`` does; without any, everything."""
    alternatives = [_parse(text) for text in filters if text]
    if not alternatives:
        return lambda _snapshot: True
    return lambda snapshot: any(matches(snapshot) for matches in alternatives)


def _parse(text: str) -> Filter:
    terms: list[Filter] = []
    place = 0
    while place < len(text):
        match = _TERM.match(text, place)
        if match is None or match.end() == place:
            raise UsageError(f"no filter: {text[:100]!r}", code="snapshotter.filter")
        terms.append(_term(match, text))
        place = match.end()
    return lambda snapshot: all(matches(snapshot) for matches in terms)


def _term(match: re.Match[str], text: str) -> Filter:
    field, label = match["field"], _unquote(match["label"] or "")
    if field not in ("name", "parent", "kind", "labels") or bool(label) != (field == "labels"):
        raise UsageError(f"no filter: {text[:100]!r}", code="snapshotter.filter")
    operator, value = match["op"], _unquote(match["value"] or "")

    def matches(snapshot: Snapshot) -> bool:
        found = _value(snapshot, field, label)
        if operator is None:
            return found is not None
        return ((found or "") == value) == (operator == "==")

    return matches


def _value(snapshot: Snapshot, field: str, label: str) -> str | None:
    if field == "labels":
        return snapshot.labels.get(label)
    values = {"name": snapshot.name, "parent": snapshot.parent, "kind": KINDS.get(snapshot.kind, "")}
    return values[field] or None


def _unquote(text: str) -> str:
    if not text.startswith('"'):
        return text
    try:
        return str(json.loads(text))
    except ValueError as exc:
        raise UsageError(f"no filter value: {text[:100]}", code="snapshotter.filter") from exc
