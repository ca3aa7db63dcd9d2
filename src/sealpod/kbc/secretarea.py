# SPDX-License-Identifier: Apache-2.0
"""Finding the launch secret inside the guest, once.

Two ways, tried in this order:

1. Linux' ``efi_secret`` module shows each entry of the secret table as a file
   ``/sys/kernel/security/secrets/coco/<guid>``. Unlinking the file wipes the entry in memory.
2. OVMF leaves an EFI configuration table entry adf956ad-e98c-484c-ae11-b51c7d336447 pointing to
   ``{u64 base, u64 size}``, the secret area. The configuration table's own address is in
   ``/sys/firmware/efi/config_table``; everything else is read from physical memory, and the area is
   overwritten with zeros after reading.

Either way the secret can be read a single time: who comes later, a container for instance, finds nothing.
All that is read here was written by the firmware or arrived under the launch's keys, but the area is also
written by whoever starts an unmeasured guest, so it is decoded as foreign bytes.
"""

from __future__ import annotations

import os
import struct
from typing import Final, NamedTuple
from uuid import UUID

from sealpod.errors import AccessError, DecodeError, NotFoundError
from sealpod.kbc.devmem import DEV_MEM, DevMem, PhysicalMemory
from sealpod.secret import SecretBytes
from sealpod.wire import secrettable

SECRET_AREA_GUID: Final = UUID("adf956ad-e98c-484c-ae11-b51c7d336447")
"""EFI configuration table entry of the secret area (edk2 ConfidentialComputingSecret)."""
COCO_SECRETS: Final = "/sys/kernel/security/secrets/coco"
CONFIG_TABLE: Final = "/sys/firmware/efi/config_table"

MAX_CONFIG_ENTRIES: Final = 64
"""Entries searched; firmware installs about 15, and sysfs does not tell the number."""
MAX_AREA: Final = 64 * 1024
"""Bytes of a secret area; OVMF's is 3 KiB, a packet carries 16 KiB."""

_CONFIG_ENTRY = struct.Struct("<16sQ")  # EFI_CONFIGURATION_TABLE on x86-64
_LOCATION = struct.Struct("<QQ")


class Places(NamedTuple):
    """Where this guest keeps things; other values serve tests."""

    coco: str = COCO_SECRETS
    config_table: str = CONFIG_TABLE
    memory: str = DEV_MEM


GUEST: Final = Places()
"""Of a running guest."""


def take_secret(guid: UUID, places: Places = GUEST) -> SecretBytes:
    """The entry filed under ``guid``, wiped where it was found.

    :raise NotFoundError: ``kbc.no-secret``: no secret was injected into this guest, or not this entry.
    :raise DecodeError: the secret area is malformed.
    :raise AccessError: the kernel does not let us read it.
    """
    path = os.path.join(places.coco, str(guid))
    if os.path.exists(path):
        return _take_file(path)
    return _take_area(guid, places)


def parse_config_address(text: str) -> int:
    """The physical address in ``/sys/firmware/efi/config_table`` (``0x...`` and a newline)."""
    try:
        return int(text.strip(), 16)
    except ValueError as exc:
        raise DecodeError(f"{CONFIG_TABLE} holds no address", code="kbc.efi") from exc


def find_table(data: bytes, guid: UUID) -> int | None:
    """Address filed under ``guid`` in the EFI configuration table entries at the start of ``data``."""
    for offset in range(0, len(data) - _CONFIG_ENTRY.size + 1, _CONFIG_ENTRY.size):
        name, address = _CONFIG_ENTRY.unpack_from(data, offset)
        if name == guid.bytes_le:
            return int(address)
    return None


def parse_location(data: bytes) -> tuple[int, int]:
    """Base and size of the secret area; :class:`DecodeError` if they cannot be true."""
    if len(data) != _LOCATION.size:
        raise DecodeError("the secret area's location is not 16 bytes", code="kbc.efi")
    base, size = _LOCATION.unpack(data)
    if not base or base >= 1 << 52 or not 0 < size <= MAX_AREA:  # 52 bits: x86-64 physical addresses
        raise DecodeError(f"the secret area cannot be {size} bytes at {base:#x}", code="kbc.efi")
    return base, size


def _take_file(path: str) -> SecretBytes:
    try:
        with open(path, "rb") as file:
            value = SecretBytes(file.read(MAX_AREA))
        os.unlink(path)
    except OSError as exc:
        raise AccessError(f"the launch secret cannot be read: {exc.strerror}", code="kbc.memory") from exc
    return value


def _take_area(guid: UUID, places: Places) -> SecretBytes:
    memory = DevMem(places.memory)
    base, size = _locate(places.config_table, memory)
    area = memory.read(base, size)
    try:
        entries = secrettable.decode(area)
    except DecodeError as exc:
        if exc.code == "secrettable.absent":
            raise _no_secret("no secret was injected into this guest") from exc
        raise
    finally:
        memory.write(base, bytes(size))
    if guid not in entries:
        raise _no_secret(f"the launch secret holds no entry {guid}")
    return SecretBytes(entries[guid])


def _locate(config_table: str, memory: PhysicalMemory) -> tuple[int, int]:
    try:
        with open(config_table, encoding="ascii") as file:
            address = parse_config_address(file.read(64))
    except OSError as exc:
        raise _no_secret("this guest was not started by EFI firmware") from exc
    except UnicodeDecodeError as exc:
        raise DecodeError(f"{CONFIG_TABLE} holds no address", code="kbc.efi") from exc
    found = find_table(memory.read(address, MAX_CONFIG_ENTRIES * _CONFIG_ENTRY.size), SECRET_AREA_GUID)
    if found is None:
        raise _no_secret("the firmware has no secret area")
    return parse_location(memory.read(found, _LOCATION.size))


def _no_secret(message: str) -> NotFoundError:
    return NotFoundError(
        message, code="kbc.no-secret", remedy="start the guest with attestation against a key broker"
    )
