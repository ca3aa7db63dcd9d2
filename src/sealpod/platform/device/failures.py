# SPDX-License-Identifier: Apache-2.0
"""What the kernel's and QEMU's failures mean: an error of the right family, with the firmware's number.

The kernel answers -EIO and the firmware's status when the firmware refused, and other numbers when it did not
get that far. QEMU writes a sentence; where it has the firmware's status it stands there as ``fw_error=N``.
"""

from __future__ import annotations

import errno
import os
import re
from typing import Final

from sealpod.errors import (
    AccessError,
    ConflictError,
    NotFoundError,
    OperationError,
    SealpodError,
    UnavailableError,
)
from sealpod.sev.status import Status, firmware_error

OPENING: Final = "unable to open"
"""What failed when the device cannot be opened; sevctl's words."""
ENOTSUPP: Final = 524
"""The kernel's own; it leaks to user space, and :mod:`errno` does not have it."""

_FW_ERROR: Final = re.compile(r"fw_error\s*=\s*(0x[0-9a-fA-F]+|\d+)")
_WRONG_STATE: Final = re.compile(r"Not in correct state\.? \(LSECRET\)")


def device_error(what: str, path: str, number: int, status: int) -> SealpodError:
    """The error for an ``errno`` from the device; ``status`` is what it says of the firmware."""
    if number == errno.EIO and status:
        return firmware_error(status, what)
    text = f"{what} {path}" if what == OPENING else f"{what} on {path}"
    text = f"{text}: {_reason(number)}"
    if number in (errno.EPERM, errno.EACCES):
        return AccessError(text, code="platform.access", remedy=f"run as root, or get write access to {path}")
    if number == errno.EBUSY:
        remedy = "end the guests on it first; a firmware that did not answer once is busy until a reboot"
        return ConflictError(text, code="platform.busy", remedy=remedy)
    if number in (errno.ENODEV, errno.ENXIO, errno.ENOENT):
        return NotFoundError(
            text,
            code="platform.absent",
            remedy="check that the processor has SEV, that it is on in the BIOS, and that ccp is loaded",
        )
    if number in (ENOTSUPP, errno.EOPNOTSUPP):
        return OperationError(text, code="platform.unsupported", remedy="update the SEV firmware")
    if number == errno.ETIMEDOUT:
        return UnavailableError(text, code="platform.silent", remedy="reboot: the firmware does not answer")
    return OperationError(text, code="platform.device", remedy="see the kernel's log (dmesg) for ccp")


def _reason(number: int) -> str:
    if number == ENOTSUPP:
        return "the firmware is too old for it"
    if number == errno.EBUSY:
        return "guests are running, or the firmware has stopped answering"
    return os.strerror(number)


def qemu_error(failure: SealpodError) -> SealpodError:
    """The firmware's error when QEMU's sentence tells one, else ``failure`` as it is."""
    text = failure.message
    if number := _FW_ERROR.search(text):
        if status := int(number[1], 0):
            return firmware_error(status, f"QEMU: {text}")
    elif _WRONG_STATE.search(text):
        return Status.INVALID_GUEST_STATE.error(f"QEMU: {text}")
    return failure
