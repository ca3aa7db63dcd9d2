# SPDX-License-Identifier: Apache-2.0
"""The launch secret table: what an SEV secret packet carries into the guest.

Layout (convention of OVMF, sevctl, simple-kbs and Linux' ``efi_secret``; all lengths little-endian)::

    off  len  field
      0   16  table GUID 1e74f542-71dd-4d66-963e-ef4287ff173b, EFI byte order
     16    4  table length: these 20 bytes and all entries, without the padding
    then per entry
      0   16  entry GUID
     16    4  entry length: 20 + n
     20    n  data
    then zeros to a multiple of 16 bytes, which no length counts

Linux refuses the whole table when an entry's length is wrong or a GUID stands twice, and shows at most 64
entries; both directions here keep these rules, so that a table we build is a table the guest can read.
How large a table may be is the matter of the packet (:mod:`sealpod.sev.packet`) and of the secret area.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final
from uuid import UUID

from sealpod.errors import DecodeError, UsageError
from sealpod.wire.guid import NIL_GUID

TABLE_GUID: Final = UUID("1e74f542-71dd-4d66-963e-ef4287ff173b")
OFFLINE_BUNDLE_GUID: Final = UUID("e6f5a162-d67f-4750-a67c-5d065f2a9910")
"""Entry holding a keyset as JSON: ``{"<key id>": "<base64 key>", ...}`` (simple-kbs, offline_sev_kbc)."""
ONLINE_CONNECTION_GUID: Final = UUID("1ee27366-0c87-43a6-af48-28543eaf7cb0")
"""Entry holding a connection as JSON: ``{"client_id": ..., "key": ...}`` (simple-kbs, online_sev_kbc)."""

ALIGNMENT: Final = 16
"""Bytes; LAUNCH_SECRET takes whole AES blocks."""
MAX_ENTRIES: Final = 64
"""Linux' efi_secret shows no more (EFI_SECRET_NUM_FILES)."""

_HEADER = struct.Struct("<16sI")


def encode(entries: Sequence[tuple[UUID, bytes]]) -> bytes:
    """The table with these entries in this order, padded with zeros to a multiple of 16 bytes.

    :raise UsageError: a GUID stands twice or is nil, or there are more than 64 entries.
    """
    guids = [guid for guid, _ in entries]
    if len(set(guids)) != len(guids):
        raise UsageError("two secrets have the same GUID", code="secrettable.duplicate")
    if NIL_GUID in guids:
        raise UsageError("the nil GUID marks deleted secrets", code="secrettable.nil-guid")
    if len(guids) > MAX_ENTRIES:
        raise UsageError(
            f"{len(guids)} secrets in one table, the guest sees {MAX_ENTRIES}", code="secrettable.too-many"
        )
    body = b"".join(_HEADER.pack(guid.bytes_le, _HEADER.size + len(data)) + data for guid, data in entries)
    table = _HEADER.pack(TABLE_GUID.bytes_le, _HEADER.size + len(body)) + body
    return table + bytes(-len(table) % ALIGNMENT)


def decode(data: bytes) -> dict[UUID, bytes]:
    """The entries of the table at the start of ``data``; what follows the table is not looked at.

    Deleted entries (nil GUID) are left out.

    :raise DecodeError: no table, or a malformed one.
    """
    if len(data) < _HEADER.size:
        raise _malformed(f"{len(data)} bytes cannot hold a secret table")
    guid, total = _HEADER.unpack_from(data)
    if guid != TABLE_GUID.bytes_le:
        raise DecodeError("no secret table: its GUID is missing", code="secrettable.absent")
    if not _HEADER.size <= total <= len(data):
        raise _malformed(f"secret table claims {total} bytes of {len(data)}")
    found: dict[UUID, bytes] = {}
    for count, (entry, value) in enumerate(_entries(data, total)):
        if count == MAX_ENTRIES:
            raise _malformed(f"secret table holds more than {MAX_ENTRIES} entries")
        if entry in found:
            raise _malformed(f"secret table holds {entry} twice")
        if entry != NIL_GUID:
            found[entry] = value
    return found


def _entries(data: bytes, total: int) -> Iterator[tuple[UUID, bytes]]:
    offset = _HEADER.size
    while offset < total:
        if total - offset < _HEADER.size:
            raise _malformed("secret table ends inside an entry header")
        guid, size = _HEADER.unpack_from(data, offset)
        if not _HEADER.size <= size <= total - offset:
            raise _malformed(f"secret table entry claims {size} bytes of {total - offset}")
        yield UUID(bytes_le=bytes(guid)), bytes(data[offset + _HEADER.size : offset + size])
        offset += size


def _malformed(message: str) -> DecodeError:
    return DecodeError(message, code="secrettable.malformed")
