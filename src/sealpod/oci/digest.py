# SPDX-License-Identifier: Apache-2.0
"""Content digests: ``algorithm:hex`` (OCI image spec, descriptor.md "Digests").

Only the registered algorithms are known, and only in lower-case hex, so that one content has one text form
and the text can name a file.
"""

from __future__ import annotations

import re
from typing import Final

from sealpod.errors import DecodeError
from sealpod.record import Record

SHA256: Final = "sha256"
HEX_LENGTHS: Final = {SHA256: 64, "sha512": 128}  # the spec's registered algorithms
_HEX = re.compile(r"[0-9a-f]+")


class Hasher:
    """Feed it a content piece by piece.

    On ``cryptography``, which every guest with keys has loaded anyway: ``hashlib`` would load a second copy
    of the same library, a noticeable part of an emulated start.
    """

    __slots__ = ("_hash",)

    def __init__(self, algorithm: str) -> None:
        from cryptography.hazmat.primitives import hashes

        self._hash = hashes.Hash({SHA256: hashes.SHA256, "sha512": hashes.SHA512}[algorithm]())

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """The next piece."""
        self._hash.update(data)

    def hexdigest(self) -> str:
        """The hash of all that was fed; more may follow."""
        return self._hash.copy().finalize().hex()


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
        hasher = Hasher(algorithm)
        hasher.update(data)
        return cls(algorithm, hasher.hexdigest())

    def hasher(self) -> Hasher:
        """A fresh hash object of this digest's algorithm."""
        return Hasher(self.algorithm)

    def matches(self, hasher: Hasher) -> bool:
        """Whether what ``hasher`` was fed has this digest."""
        from cryptography.hazmat.primitives.constant_time import bytes_eq

        return bytes_eq(hasher.hexdigest().encode(), self.hex.encode())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"
