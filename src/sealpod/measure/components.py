# SPDX-License-Identifier: Apache-2.0
"""What a launch digest was made of, so that a later difference can be given a name.

As JSON, an object with ``schemaVersion`` 1, ``mode`` "sev", ``firmware``, ``kernel``, ``initrd`` and
``cmdlineHash`` (hex SHA-256), ``cmdline`` (text), ``table`` (hex of the hashes table), ``digest`` (hex).
Kernel, initrd, command line and table are null when the firmware alone is measured. ``cmdlineHash`` and
``table`` follow from the rest and are not read back.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final, Self

from sealpod.errors import DecodeError, OperationError, UsageError
from sealpod.measure.digest import sev_digests
from sealpod.measure.hashes import HashesTable, cmdline_hash
from sealpod.measure.ovmf import Ovmf

SCHEMA_VERSION: Final = 1
MAX_JSON_SIZE: Final = 1 << 20
"""Bytes. A record has a few hundred, and a command line of at most some thousand."""

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Components:
    """The measured parts; hashes are lower-case hex SHA-256."""

    firmware: str
    kernel: str | None
    """None when no kernel is measured; then initrd and cmdline are None too."""
    initrd: str | None
    """Of an empty file when there is a kernel but no initrd, as the table has it."""
    cmdline: str | None
    digest: str
    """The launch digest, hex."""

    @classmethod
    def of(
        cls,
        firmware: bytes | bytearray | memoryview,
        kernel: bytes | bytearray | memoryview | None,
        initrd: bytes | bytearray | memoryview | None,
        cmdline: str | None,
    ) -> Self:
        """Measure these files. Without a kernel, initrd and command line are not looked at.

        :raise OperationError: a kernel for a firmware that cannot check it, code ``measure.no-hash-table``.
        :raise DecodeError: the firmware image is malformed.
        :raise UsageError: the command line cannot be one.
        """
        ovmf = Ovmf.parse(firmware)
        if kernel is None:
            alone, digest = sev_digests(firmware, None)
            return cls(alone.hex(), None, None, None, digest.hex())
        if ovmf.hash_table is None:
            raise OperationError(
                "Kernel specified but OVMF doesn't support kernel/initrd/cmdline measurement",
                code="measure.no-hash-table",
                remedy="use the AmdSev build of OVMF (OvmfPkg/AmdSev/AmdSevX64)",
            )
        table = HashesTable.of(kernel, initrd, cmdline)
        alone, digest = sev_digests(firmware, table.encode())
        return cls(alone.hex(), table.kernel.hex(), table.initrd.hex(), cmdline or "", digest.hex())

    def table(self) -> bytes | None:
        """The 176-byte hashes table; None when no kernel is measured."""
        if self.kernel is None or self.initrd is None or self.cmdline is None:
            return None
        initrd, kernel = bytes.fromhex(self.initrd), bytes.fromhex(self.kernel)
        return HashesTable(cmdline_hash(self.cmdline), initrd, kernel).encode()

    def to_json(self) -> str:
        """The record as JSON text, one field per line."""
        table = self.table()
        record = {
            "schemaVersion": SCHEMA_VERSION,
            "mode": "sev",
            "firmware": self.firmware,
            "kernel": self.kernel,
            "initrd": self.initrd,
            "cmdline": self.cmdline,
            "cmdlineHash": None if self.cmdline is None else cmdline_hash(self.cmdline).hex(),
            "table": None if table is None else table.hex(),
            "digest": self.digest,
        }
        return json.dumps(record, indent=2)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a record back.

        :raise DecodeError: not such a record.
        """
        record = _object(text)
        if record.get("schemaVersion") != SCHEMA_VERSION or record.get("mode") != "sev":
            raise _malformed("schemaVersion 1 and mode sev expected")
        firmware, digest = _hash(record, "firmware"), _hash(record, "digest")
        if record.get("kernel") is None:
            if record.get("initrd") is not None or record.get("cmdline") is not None or digest != firmware:
                raise _malformed("no kernel, yet more than the firmware is measured")
            return cls(firmware, None, None, None, digest)
        kernel, initrd = _hash(record, "kernel"), _hash(record, "initrd")
        return cls(firmware, kernel, initrd, _cmdline(record), digest)


def _object(text: str | bytes) -> dict[str, object]:
    if len(text) > MAX_JSON_SIZE:
        raise _malformed(f"{len(text)} bytes")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        raise _malformed("not JSON") from None
    if not isinstance(record, dict):
        raise _malformed("not an object")
    return record


def _hash(record: dict[str, object], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or _SHA256.fullmatch(value) is None:
        raise _malformed(f"{name} is not a SHA-256 in lower-case hex")
    return value


def _cmdline(record: dict[str, object]) -> str:
    value = record.get("cmdline")
    if not isinstance(value, str):
        raise _malformed("cmdline is not text")
    try:
        cmdline_hash(value)
    except UsageError as error:
        raise _malformed(error.message) from None
    return value


def _malformed(message: str) -> DecodeError:
    return DecodeError(f"not a measurement record: {message}", code="measure.record")
