# SPDX-License-Identifier: Apache-2.0
"""The hashes table: kernel, initrd and command line as QEMU measures them and OVMF checks them.

176 bytes, little-endian, GUIDs in EFI byte order (QEMU target/i386/sev.c)::

    off  len  field
      0   16  table GUID 9438d606-4f22-4cc9-b479-a793d411fd21
     16    2  168: length without padding
     18   50  command line: GUID 97d02dd8-..., u16 50, SHA-256 of the text and one NUL
     68   50  initrd:       GUID 44baf731-..., u16 50, SHA-256; of nothing when there is none
    118   50  kernel:       GUID 4de79437-..., u16 50, SHA-256 of the whole file
    168    8  zeros
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final, Self

from sealpod.errors import UsageError
from sealpod.measure.guid import guid
from sealpod.record import Record

TABLE_GUID: Final = guid("9438d606-4f22-4cc9-b479-a793d411fd21")
CMDLINE_GUID: Final = guid("97d02dd8-bd20-4c94-aa78-e7714d36ab2a")
INITRD_GUID: Final = guid("44baf731-3a2f-4bd7-9af1-41e29169781d")
KERNEL_GUID: Final = guid("4de79437-abd2-427f-b835-d5b172d2045b")

_HEADER = struct.Struct("<16sH")
_ENTRY = struct.Struct("<16sH32s")
_UNPADDED: Final = _HEADER.size + 3 * _ENTRY.size
TABLE_SIZE: Final = (_UNPADDED + 15) // 16 * 16
"""176 bytes."""


class HashesTable(Record):
    """Three SHA-256 values of 32 bytes each."""

    cmdline: bytes
    initrd: bytes
    kernel: bytes

    @classmethod
    def of(
        cls,
        kernel: bytes | bytearray | memoryview,
        initrd: bytes | bytearray | memoryview | None,
        cmdline: str | None,
    ) -> Self:
        """The table for these files; no initrd counts as an empty one, no command line as an empty one.

        :raise UsageError: a command line that holds a NUL, at which the kernel would stop reading.
        """
        return cls(
            cmdline=cmdline_hash(cmdline or ""),
            initrd=hashlib.sha256(b"" if initrd is None else initrd).digest(),
            kernel=hashlib.sha256(kernel).digest(),
        )

    def encode(self) -> bytes:
        """176 bytes."""
        entries = ((CMDLINE_GUID, self.cmdline), (INITRD_GUID, self.initrd), (KERNEL_GUID, self.kernel))
        body = b"".join(_ENTRY.pack(name, _ENTRY.size, value) for name, value in entries)
        return (_HEADER.pack(TABLE_GUID, _UNPADDED) + body).ljust(TABLE_SIZE, b"\0")


def cmdline_hash(cmdline: str) -> bytes:
    """SHA-256 of the command line's bytes and one NUL.

    Bytes that are no UTF-8 stand in the text as Python's command line arguments carry them (PEP 383).

    :raise UsageError: the command line holds a NUL.
    """
    if "\0" in cmdline:
        raise UsageError("the kernel command line holds a NUL character", code="measure.cmdline")
    try:
        return hashlib.sha256(cmdline.encode("utf-8", "surrogateescape") + b"\0").digest()
    except UnicodeEncodeError:
        raise UsageError("the kernel command line is not text", code="measure.cmdline") from None
