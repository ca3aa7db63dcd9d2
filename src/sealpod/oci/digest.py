# SPDX-License-Identifier: Apache-2.0
"""Content digests: ``algorithm:hex`` (OCI image spec, descriptor.md "Digests").

Only the registered algorithms are known, and only in lower-case hex, so that one content has one text form
and the text can name a file.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING, Final

from sealpod.errors import DecodeError
from sealpod.record import Record

if TYPE_CHECKING:
    from hashlib import _Hash

SHA256: Final = "sha256"
HEX_LENGTHS: Final = {SHA256: 64, "sha512": 128}  # the spec's registered algorithms
_HEX = re.compile(r"[0-9a-f]+")


class Digest(Record):
    """What a content hashes to."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """``sha256:<64 hex>`` or ``sha512:<128 hex>``; :class:`DecodeError` otherwise."""
        algorithm, _, hexadecimal = text.partition(":")
        length = HEX_LENGTHS.get(algorithm)
        if length is None or len(hexadecimal) != length or _HEX.fullmatch(hexadecimal) is None:
            raise DecodeError(f"not a content digest: {text[:140]!r}", code="image.digest-syntax")
        return cls(algorithm, hexadecimal)

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview, algorithm: str = SHA256) -> Digest:
        """The digest of ``data``."""
        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())

    def hasher(self) -> _Hash:
        """A fresh hash object of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def matches(self, hasher: _Hash) -> bool:
        """Whether what ``hasher`` was fed has this digest."""
        return hmac.compare_digest(hasher.hexdigest(), self.hex)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"
