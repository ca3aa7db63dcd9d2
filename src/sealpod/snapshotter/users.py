# SPDX-License-Identifier: Apache-2.0
"""Numbers that stand for users' names until a guest resolves them.

An image may name its user, and containerd then looks the name up in ``/etc/passwd`` of the container's
snapshot, which for a guest's image has no files. The names are in the images' configurations, which
containerd keeps in its content store; so the snapshot gets a ``passwd`` and a ``group`` of those names alone,
with numbers nobody uses (:data:`~sealpod.wire.snapshotapi.NAMED`). The shim turns them back into names, and
the guest, which has the image's own files, into the real numbers.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from sealpod.errors import DecodeError
from sealpod.oci.config import MAX_CONFIG, ImageConfig
from sealpod.wire.snapshotapi import NAMED

CONTENT: Final = "io.containerd.content.v1.content"
"""containerd's content store, beside the snapshotters' directories below its root."""
MAX_NAMES: Final = 64  # of one chain of layers
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}\$?")


class ImageUsers:
    """Users' and groups' names by chain of layers. Methods may be called from many threads.

    A blob is looked into once: its name says that it never changes.
    """

    def __init__(self, content: str) -> None:
        self._blobs = os.path.join(content, "blobs", "sha256")
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self._users: dict[str, set[str]] = {}  # the text of the configuration by chain

    def of(self, chain: str) -> tuple[str, ...]:
        """What the images whose layers make this chain say of their user, where it is no number."""
        with self._lock:
            self._look()
            return tuple(sorted(self._users.get(chain, ()))[:MAX_NAMES])

    def _look(self) -> None:
        try:
            present = {entry.name for entry in os.scandir(self._blobs) if _DIGEST.fullmatch(entry.name)}
        except OSError:
            return  # another content store, or none yet
        for name in present - self._seen:
            self._read(name)
        self._seen = present

    def _read(self, name: str) -> None:
        try:
            descriptor = os.open(os.path.join(self._blobs, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                if os.fstat(descriptor).st_size > MAX_CONFIG or file.peek(1)[:1] != b"{":
                    return
                config = ImageConfig.decode(file.read(MAX_CONFIG + 1))
        except (OSError, DecodeError):
            return  # a layer, a manifest, or gone
        if config.diff_ids and any(split_user(config.user)):
            self._users.setdefault(chain_id(map(str, config.diff_ids)), set()).add(config.user)


def chain_id(diff_ids: Iterable[str]) -> str:
    """The identity of a stack of layers (OCI image spec, config.md: ChainID)."""
    chain = ""
    for diff_id in diff_ids:
        chain = f"sha256:{sha256(f'{chain} {diff_id}'.encode()).hexdigest()}" if chain else diff_id
    return chain


def split_user(text: str) -> tuple[str, str]:
    """The user's and the group's name in a configuration's ``User``, empty where it is none."""
    user, _, group = text.partition(":")
    return _name(user), _name(group)


def _name(text: str) -> str:
    return text if _NAME.fullmatch(text) and not text.isdecimal() else ""


def write(directory: str, texts: Iterable[str]) -> None:
    """Put the files for these users into a snapshot's directory."""
    pairs = [split_user(text) for text in texts]
    users = sorted({user for user, _ in pairs if user})
    groups = sorted({group for _, group in pairs if group})
    os.makedirs(os.path.join(directory, "etc"), exist_ok=True)
    lines = [f"{name}:x:{number}:{number}::/:\n" for number, name in zip(NAMED, users, strict=False)]
    _write(os.path.join(directory, "etc", "passwd"), lines)
    after = NAMED[len(users) :]
    _write(
        os.path.join(directory, "etc", "group"),
        [f"{name}:x:{number}:\n" for number, name in zip(after, groups, strict=False)],
    )


def _write(path: str, lines: Iterable[str]) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.writelines(lines)
