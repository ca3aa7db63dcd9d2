# SPDX-License-Identifier: Apache-2.0
"""What one call looks up: each record once, however often it is asked for.

A call may name one keyset under 64 GUIDs; that must not be 64 times the work of one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sealpod.kbs.core.ports import Records
from sealpod.kbs.core.records import StoredKeyset, StoredReportKey, StoredResource, StoredSecret

_T = TypeVar("_T")


class Lookups:
    """:class:`~sealpod.kbs.core.ports.Records` for the length of one call."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._secrets: dict[str, StoredSecret | None] = {}
        self._keysets: dict[str, StoredKeyset | None] = {}
        self._report_keys: dict[str, StoredReportKey | None] = {}
        self._resources: dict[str, StoredResource | None] = {}

    def find_secret(self, secret_id: str) -> StoredSecret | None:
        return _once(self._secrets, secret_id, self._records.find_secret)

    def find_keyset(self, keyset_id: str) -> StoredKeyset | None:
        return _once(self._keysets, keyset_id, self._records.find_keyset)

    def find_report_key(self, key_id: str) -> StoredReportKey | None:
        return _once(self._report_keys, key_id, self._records.find_report_key)

    def find_resource(self, kind: str) -> StoredResource | None:
        return _once(self._resources, kind, self._records.find_resource)


def _once(found: dict[str, _T], key: str, find: Callable[[str], _T]) -> _T:
    if key not in found:
        found[key] = find(key)
    return found[key]
