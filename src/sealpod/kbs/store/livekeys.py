# SPDX-License-Identifier: Apache-2.0
"""Keys that may be added while the broker runs: a file that changed is read again, soon or when it is missed,
and a record under a key that is not known makes all sources be asked again."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Final

from sealpod.errors import SealpodError, VerificationError
from sealpod.kbs.core.sealing import KeyRing
from sealpod.kbs.store.keks import KekSources, load_ring
from sealpod.secret import SecretBytes

LOOK_INTERVAL: Final = 5.0
"""Seconds between two looks at whether a key's file changed."""
ASK_INTERVAL: Final = 10.0
"""Seconds between two rounds of asking unchanged sources because a key is not known: a stranger's record
must not cost a command each time."""

_logger = logging.getLogger(__name__)


class LiveKeyRing:
    """A key ring that reads its sources again when they may have changed; safe to use from several threads.

    :raise SealpodError: a source cannot be read or holds no key.
    """

    def __init__(
        self, sources: KekSources, *, rng: Callable[[int], bytes], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sources = sources
        self._rng = rng
        self._clock = clock
        # Held while sources are read: a command may take its time, and who has its key does not wait for it.
        self._reading = threading.Lock()
        self._stamp = self._look()
        self._ring = load_ring(sources, rng=rng)
        self._failed = False
        self._looked, self._asked = clock(), -math.inf

    def ring(self) -> KeyRing:
        """The keys as they are now."""
        if self._clock() - self._looked >= LOOK_INTERVAL and self._reading.acquire(blocking=False):
            try:
                self._looked = self._clock()
                if self._stamp_changed() or self._failed:
                    self._load()
            finally:
                self._reading.release()
        return self._ring

    def seal(self, plaintext: SecretBytes, *, context: bytes) -> bytes:
        return self.ring().seal(plaintext, context=context)

    def open(self, sealed: bytes, *, context: bytes) -> SecretBytes:
        ring = self.ring()
        try:
            return ring.open(sealed, context=context)
        except VerificationError as error:
            newer = self._newer_than(ring) if error.code == "seal.key-missing" else None
            if newer is None:
                raise
        return newer.open(sealed, context=context)

    def _newer_than(self, ring: KeyRing) -> KeyRing | None:
        with self._reading:
            if self._ring is not ring:
                return self._ring  # Somebody missed a key at the same time.
            now = self._clock()
            if not self._stamp_changed() and now - self._asked < ASK_INTERVAL:
                return None
            self._asked = now
            return self._ring if self._load() else None

    def _stamp_changed(self) -> bool:
        before, self._stamp = self._stamp, self._look()
        return before != self._stamp

    def _load(self) -> bool:
        try:
            self._ring = load_ring(self._sources, rng=self._rng)
        except SealpodError as error:
            # What was loaded before still opens everything it did; the next look tries again.
            self._failed = True
            _logger.warning("key-encryption keys not read again: %s", error.one_line())
            return False
        self._failed = False
        return True

    def _look(self) -> tuple[object, ...]:
        return tuple(_stamp(one) for one in (self._sources.active or "", *self._sources.older))


def _stamp(source: str) -> object:
    path = source if source.startswith("/") else source.removeprefix("file:")
    if path == source and not source.startswith("/"):
        return None
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
