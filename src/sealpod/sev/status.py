# SPDX-License-Identifier: Apache-2.0
"""Status codes of the SEV firmware (SEV API, status codes; SNP's included for completeness).

Texts up to 0x18 are QEMU's, so that an operator finds the same sentence in both logs.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from sealpod.errors import FirmwareError


class Status(IntEnum):
    """What a firmware command answered."""

    SUCCESS = 0x00
    INVALID_PLATFORM_STATE = 0x01
    INVALID_GUEST_STATE = 0x02
    INVALID_CONFIG = 0x03
    INVALID_LENGTH = 0x04
    ALREADY_OWNED = 0x05
    INVALID_CERTIFICATE = 0x06
    POLICY_FAILURE = 0x07
    INACTIVE = 0x08
    INVALID_ADDRESS = 0x09
    BAD_SIGNATURE = 0x0A
    BAD_MEASUREMENT = 0x0B
    ASID_OWNED = 0x0C
    INVALID_ASID = 0x0D
    WBINVD_REQUIRED = 0x0E
    DF_FLUSH_REQUIRED = 0x0F
    INVALID_GUEST = 0x10
    INVALID_COMMAND = 0x11
    ACTIVE = 0x12
    HWERROR_PLATFORM = 0x13
    HWERROR_UNSAFE = 0x14
    UNSUPPORTED = 0x15
    INVALID_PARAM = 0x16
    RESOURCE_LIMIT = 0x17
    SECURE_DATA_INVALID = 0x18
    INVALID_PAGE_SIZE = 0x19
    INVALID_PAGE_STATE = 0x1A
    INVALID_MDATA_ENTRY = 0x1B
    INVALID_PAGE_OWNER = 0x1C
    AEAD_OFLOW = 0x1D
    RING_BUFFER_EXIT = 0x1F
    RMP_INIT_REQUIRED = 0x20
    BAD_SVN = 0x21
    BAD_VERSION = 0x22
    SHUTDOWN_REQUIRED = 0x23
    UPDATE_FAILED = 0x24
    RESTORE_REQUIRED = 0x25
    RMP_INIT_FAILED = 0x26
    INVALID_KEY = 0x27

    @property
    def text(self) -> str:
        """One short phrase."""
        return _TEXTS[self]

    @property
    def error_code(self) -> str:
        """The stable code of an error with this status: ``sev.bad-measurement``."""
        return "sev." + self.name.lower().replace("_", "-")

    def error(self, detail: str = "", *, remedy: str | None = None) -> FirmwareError:
        """The error to raise for this status; ``detail`` says what the firmware looked at."""
        message = f"SEV firmware: {self.text} ({self.name})"
        if detail:
            message += f": {detail}"
        return FirmwareError(message, status=int(self), code=self.error_code, remedy=remedy)


def firmware_error(number: int, detail: str = "") -> FirmwareError:
    """The error for a status number as it came from a device; numbers no API version defines included."""
    try:
        return Status(number).error(detail)
    except ValueError:
        message = f"SEV firmware: unknown error {number:#x}" + (f": {detail}" if detail else "")
        return FirmwareError(message, status=number)


_TEXTS: Final[dict[Status, str]] = {
    Status.SUCCESS: "Success",
    Status.INVALID_PLATFORM_STATE: "Platform state is invalid",
    Status.INVALID_GUEST_STATE: "Guest state is invalid",
    Status.INVALID_CONFIG: "Platform configuration is invalid",
    Status.INVALID_LENGTH: "Buffer too small",
    Status.ALREADY_OWNED: "Platform is already owned",
    Status.INVALID_CERTIFICATE: "Certificate is invalid",
    Status.POLICY_FAILURE: "Policy is not allowed",
    Status.INACTIVE: "Guest is not active",
    Status.INVALID_ADDRESS: "Invalid address",
    Status.BAD_SIGNATURE: "Bad signature",
    Status.BAD_MEASUREMENT: "Bad measurement",
    Status.ASID_OWNED: "ASID is already owned",
    Status.INVALID_ASID: "Invalid ASID",
    Status.WBINVD_REQUIRED: "WBINVD is required",
    Status.DF_FLUSH_REQUIRED: "DF_FLUSH is required",
    Status.INVALID_GUEST: "Guest handle is invalid",
    Status.INVALID_COMMAND: "Invalid command",
    Status.ACTIVE: "Guest is active",
    Status.HWERROR_PLATFORM: "Hardware error",
    Status.HWERROR_UNSAFE: "Hardware unsafe",
    Status.UNSUPPORTED: "Feature not supported",
    Status.INVALID_PARAM: "Invalid parameter",
    Status.RESOURCE_LIMIT: "Required firmware resource depleted",
    Status.SECURE_DATA_INVALID: "Part-specific integrity check failure",
    Status.INVALID_PAGE_SIZE: "Page size is invalid",
    Status.INVALID_PAGE_STATE: "Page state is invalid",
    Status.INVALID_MDATA_ENTRY: "Metadata entry is invalid",
    Status.INVALID_PAGE_OWNER: "Page owner is invalid",
    Status.AEAD_OFLOW: "Sequence number would overflow",
    Status.RING_BUFFER_EXIT: "Ring buffer mode was left",
    Status.RMP_INIT_REQUIRED: "RMP initialization is required",
    Status.BAD_SVN: "Security version number is too low",
    Status.BAD_VERSION: "Version is too low",
    Status.SHUTDOWN_REQUIRED: "Shutdown is required",
    Status.UPDATE_FAILED: "Firmware update failed",
    Status.RESTORE_REQUIRED: "Firmware restore is required",
    Status.RMP_INIT_FAILED: "RMP initialization failed",
    Status.INVALID_KEY: "Key is invalid",
}
