# SPDX-License-Identifier: Apache-2.0
"""Who asks, and what answering takes beside the records: time, random bytes, files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sealpod.errors import RefusedError
from sealpod.kbs.core.evidence import Evidence
from sealpod.kbs.core.online import CONNECTION_KEY_SIZE, connection_id
from sealpod.kbs.core.ports import ResourceFiles
from sealpod.kbs.core.records import Connection, Platform
from sealpod.secret import SecretBytes


@dataclass(frozen=True, slots=True)
class Asker:
    """The launch that asks, and what answering it takes: time, random bytes, the files of resources."""

    evidence: Evidence
    platform: Platform | None
    now: float
    report_ttl: float
    rng: Callable[[int], bytes]
    files: ResourceFiles


class NoFiles:
    """A broker without a directory of resources."""

    def read(self, path: str) -> SecretBytes:
        """:raise RefusedError: always."""
        raise RefusedError(
            "No such file or directory",
            code="resource.file",
            remedy="the broker's owner names the directory of its resources (--resources)",
        )


def new_connection(asker: Asker) -> Connection:
    """A connection for the launch that asks."""
    client_id = connection_id(asker.rng(16))
    key = SecretBytes(asker.rng(CONNECTION_KEY_SIZE))
    return Connection(client_id, key, asker.evidence, asker.platform, asker.now)
