# SPDX-License-Identifier: Apache-2.0
"""Columns that hold secrets: sealed on the way in, opened on the way out, each bound to its row.

A column holds either base64 text in plain, as simple-kbs' tools write it, or the sealed form of that text.
Plain text is read for ever; only what is written here is sealed. What is sealed is the base64's bytes where
it is base64, which saves a quarter of a narrow column, and the text itself where it is not.
"""

from __future__ import annotations

import os
from typing import Final

from sealpod.errors import DecodeError, UsageError, VerificationError
from sealpod.kbs.core.encoding import decode_base64, encode_base64
from sealpod.kbs.core.ports import Sealer
from sealpod.kbs.core.sealing import KEY_SIZE, OVERHEAD, KeyRing, is_sealed, sealed_length
from sealpod.kbs.store.livekeys import LiveKeyRing
from sealpod.secret import SecretBytes

_CONTEXT: Final = b"sealpod record 1\0"
_TEXT, _BYTES = b"\0", b"\1"


def record_context(table: str, key: str, standing: bytes = b"") -> bytes:
    """What a sealed column is bound to: its table, the id of its row, and what that stands for if it is
    worth anything by that alone (:mod:`.standing`)."""
    name = table.encode() + b"\0" + key.encode("utf-8", "surrogatepass")
    return _CONTEXT + name + (b"\0" + standing if standing else b"")


def largest_sealed(width: int) -> int:
    """Bytes of secret whose sealed form fits a column of ``width`` characters."""
    room = (width - sealed_length(0) + (OVERHEAD + 2) // 3 * 4) // 4 * 3
    return room - OVERHEAD - len(_BYTES)


class RecordSealer:
    """Seals and opens columns, and launches for the broker. Without keys columns are written in plain.

    Launches are sealed in any case: without keys under one that this process makes and forgets, so that only
    it can finish what it began.
    """

    def __init__(self, keys: LiveKeyRing | None) -> None:
        self.keys: Final = keys
        self._launches: Sealer = (
            KeyRing(SecretBytes(os.urandom(KEY_SIZE)), rng=os.urandom) if keys is None else keys
        )

    @property
    def seals(self) -> bool:
        """Whether columns are sealed."""
        return self.keys is not None

    def seal(self, plaintext: SecretBytes, *, context: bytes) -> bytes:
        return self._launches.seal(plaintext, context=context)

    def open(self, sealed: bytes, *, context: bytes) -> SecretBytes:
        return self._launches.open(sealed, context=context)

    def limit(self, width: int) -> int:
        """Bytes of secret that a column of ``width`` characters takes."""
        return largest_sealed(width) if self.seals else width // 4 * 3

    def seal_text(self, table: str, key: str, text: SecretBytes, *, width: int, standing: bytes = b"") -> str:
        """What to write for ``text`` in the row ``key`` of a table, bound as :func:`record_context` says.

        :raise UsageError: it does not fit the column.
        """
        written = text.reveal().decode()
        if self.keys is not None:
            packed = SecretBytes(_pack(written))
            context = record_context(table, key, standing)
            written = self.keys.seal(packed, context=context).decode("ascii")
        if len(written) > width:
            raise UsageError(
                f"a secret has at most {self.limit(width)} bytes",
                code="secret.size",
                remedy="store a key and encrypt what it protects",
            )
        return written

    def open_text(self, table: str, key: str, column: str, *, standing: bytes = b"") -> SecretBytes:
        """The text a column holds, sealed or not.

        :raise VerificationError: it does not open, or its key is not there.
        """
        if not is_sealed(column):
            return SecretBytes(column.encode("utf-8", "surrogatepass"))
        if self.keys is None:
            raise VerificationError(
                "a record is sealed, and no key-encryption key is loaded",
                code="seal.key-missing",
                remedy="start with the key it was sealed under, see `sealpod kbs doctor`",
            )
        sealed = column.encode("utf-8", "surrogatepass")
        return _unpack(self.keys.open(sealed, context=record_context(table, key, standing)))


def _pack(text: str) -> bytes:
    try:
        return _BYTES + decode_base64(text, limit=len(text))
    except DecodeError:
        return _TEXT + text.encode("utf-8", "surrogatepass")


def _unpack(packed: SecretBytes) -> SecretBytes:
    raw = packed.reveal()
    if raw[:1] == _BYTES:
        return SecretBytes(encode_base64(raw[1:]).encode("ascii"))
    if raw[:1] == _TEXT:
        return SecretBytes(raw[1:])
    raise VerificationError("a sealed record does not open", code="seal.broken")
