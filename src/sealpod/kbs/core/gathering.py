# SPDX-License-Identifier: Apache-2.0
"""From requests to what answers them, and all that together.

Looking up and answering are two steps: the policies of everything asked for are known, and checked, before
the first payload is made, and a key that does not exist is said only to a caller with a launch in progress.
"""

from __future__ import annotations

from collections.abc import Sequence

from sealpod.errors import RefusedError
from sealpod.kbs.core.asker import Asker, new_connection
from sealpod.kbs.core.material import (
    BundleMaterial,
    ConnectionMaterial,
    KeyMaterial,
    Material,
    ReportMaterial,
    ResourceMaterial,
)
from sealpod.kbs.core.ports import Records
from sealpod.kbs.core.records import Connection
from sealpod.kbs.core.request import SecretKind, SecretRequest
from sealpod.secret import SecretBytes

Entries = list[tuple[str, SecretBytes]]


def gather(store: Records, request: SecretRequest, asker: Asker) -> Material:
    """Look up what a request needs.

    :raise SealpodError: a policy or record that cannot be read: no release.
    """
    if request.kind is SecretKind.KEY:
        return KeyMaterial(request, store.find_secret(request.id))
    if request.kind is SecretKind.BUNDLE:
        keyset = store.find_keyset(request.id)
        members = () if keyset is None else tuple(dict.fromkeys(keyset.members))
        return BundleMaterial(request.id, keyset, tuple((name, store.find_secret(name)) for name in members))
    if request.kind is SecretKind.REPORT:
        return ReportMaterial(request, store.find_report_key(request.id), asker)
    if request.kind is SecretKind.RESOURCE:
        return ResourceMaterial(request, store.find_resource(request.id), asker.files)
    return ConnectionMaterial(new_connection(asker))


def entries_of(requests: Sequence[SecretRequest], materials: Sequence[Material], limit: int) -> Entries:
    """Name and payload of each, stopping as soon as they are more than anybody could be sent."""
    entries: Entries = []
    size = 0
    for request, material in zip(requests, materials, strict=True):
        payload = material.payload()
        size += len(payload)
        if size > limit:
            raise RefusedError(
                f"reply too large: more than {limit} bytes",
                code="secret.reply-too-large",
                remedy="ask for fewer secrets at a time",
            )
        entries.append((request.guid, payload))
    return entries


def connections_of(materials: Sequence[Material]) -> tuple[Connection, ...]:
    """All connections to keep."""
    return tuple(one for material in materials for one in material.connections)


def labels_of(materials: Sequence[Material]) -> tuple[str, ...]:
    """``type:id`` of everything that is released."""
    return tuple(one for material in materials for one in material.released)
