# SPDX-License-Identifier: Apache-2.0
"""What ``/dev/sev`` takes and gives (linux/psp-sev.h). Pure: numbers and addresses in, bytes out, and back.

There is one ioctl, SEV_ISSUE_CMD. Its argument names a command, the address of that command's own structure,
and has room for the firmware's status. All structures are packed; addresses are this process's::

    sev_issue_cmd       u32 cmd, u64 data, u32 error
    status              u8 api_major, api_minor, state; u32 flags; u8 build; u32 guest_count
    pek_csr             u64 address, u32 length
    pek_cert_import     u64 pek, u32 length, u64 oca, u32 length
    pdh_cert_export     u64 pdh, u32 length, u64 chain, u32 length
    get_id2             u64 address, u32 length
"""

from __future__ import annotations

import enum
import struct
from typing import Final

from sealpod.platform.port import PlatformStatus
from sealpod.sev.version import FirmwareVersion

ISSUE_CMD: Final = struct.Struct("<IQI")
STATUS: Final = struct.Struct("<BBBIBI")
BUFFER: Final = struct.Struct("<QI")
"""pek_csr and get_id2."""
BUFFERS: Final = struct.Struct("<QIQI")
"""pek_cert_import and pdh_cert_export."""

_DIRECTION_READ_WRITE: Final = 3
SEV_ISSUE_CMD: Final = _DIRECTION_READ_WRITE << 30 | ISSUE_CMD.size << 16 | ord("S") << 8 | 0
"""_IOWR('S', 0, struct sev_issue_cmd): 0xC0105300."""

FLAG_OWNED: Final = 0x1
FLAG_ES: Final = 0x100


class DeviceCommand(enum.IntEnum):
    """Commands of the driver; not the firmware's own numbers.

    Those that change the platform, and any that finds it not initialised, need the device open for writing.
    """

    FACTORY_RESET = 0
    PLATFORM_STATUS = 1
    PEK_GEN = 2
    PEK_CSR = 3
    PDH_GEN = 4
    PDH_CERT_EXPORT = 5
    PEK_CERT_IMPORT = 6
    GET_ID2 = 8


def issue(command: DeviceCommand, data: int) -> bytearray:
    """The ioctl's argument; ``data`` is the address of the command's structure, 0 when it has none."""
    return bytearray(ISSUE_CMD.pack(command, data, 0))


def firmware_status(argument: bytes | bytearray) -> int:
    """The firmware's status out of the ioctl's argument, after the call."""
    return int(ISSUE_CMD.unpack(argument)[2])


def platform_status(data: bytes | bytearray) -> PlatformStatus:
    """PLATFORM_STATUS' structure, 12 bytes."""
    major, minor, state, flags, build, guests = STATUS.unpack(data)
    version = FirmwareVersion(major, minor, build)
    return PlatformStatus(version, state, bool(flags & FLAG_OWNED), bool(flags & FLAG_ES), guests)
