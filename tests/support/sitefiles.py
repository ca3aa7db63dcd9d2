# SPDX-License-Identifier: Apache-2.0
"""Files on the disk of a node, and what must not be among them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from podimages import PodLab


def files(place: str) -> list[Path]:
    """Regular files below ``place`` on the same disk: no mounted namespaces, no file systems in memory."""
    device = os.stat(place).st_dev
    paths = [path for path in Path(place).rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in paths if path.stat().st_dev == device]


def assert_kept_from_the_host(pods: PodLab) -> None:
    """No layer, and nothing that was in one, is on the disk of the node."""
    found = {path: path.read_bytes() for path in files(pods.host.directory)}
    assert any(b"canary" in data for data in found.values()), "the search finds nothing"
    assert not [path for path, data in found.items() if pods.marker.encode() in data]
    assert len(pods.layers) >= 3
    assert not [path for path in found if path.name in pods.layers]
    assert not set(pods.layers) & {hashlib.sha256(data).hexdigest() for data in found.values()}
    content = Path(pods.host.directory, "root/io.containerd.content.v1.content/blobs/sha256")
    assert all(json.loads(path.read_bytes()) for path in content.iterdir())
