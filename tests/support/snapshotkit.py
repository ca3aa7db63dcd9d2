# SPDX-License-Identifier: Apache-2.0
"""containerd's side of the Snapshots service."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from sealpod.wire.message import Message
from sealpod.wire.snapshotapi import MESSAGES, METHODS, SNAPSHOTS

REF = "containerd.io/snapshot.ref"
IMAGE = "containerd.io/snapshot/cri.image-ref"


class Client:
    """Calls by name on the socket at ``address``."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(f"unix:{address}")

    def close(self) -> None:
        self.channel.close()

    def __call__(self, method: str, **fields: Any) -> Message:
        request, answer = METHODS[method]
        call = self.channel.unary_unary(f"/{SNAPSHOTS}/{method}")
        payload = MESSAGES.new(request, snapshotter="sealpod", **fields).encode()
        return MESSAGES.decode(answer, bytes(call(payload, timeout=30)))

    def refused(self, method: str, **fields: Any) -> tuple[grpc.StatusCode, str]:
        """Status and text of a call that must fail."""
        with pytest.raises(grpc.RpcError) as caught:
            self(method, **fields)
        return caught.value.code(), caught.value.details()

    def infos(self, *filters: str) -> list[list[Message]]:
        """What ``List`` sends, message by message."""
        call = self.channel.unary_stream(f"/{SNAPSHOTS}/List")
        pages = call(MESSAGES.new("ListSnapshotsRequest", filters=list(filters)).encode(), timeout=30)
        return [list(MESSAGES.decode("ListSnapshotsResponse", page).info) for page in pages]

    def list(self, *filters: str) -> list[str]:
        """Names of the snapshots that pass."""
        return [info.name for page in self.infos(*filters) for info in page]

    def pages(self) -> list[int]:
        """How many snapshots each message of a list has."""
        return [len(page) for page in self.infos()]
