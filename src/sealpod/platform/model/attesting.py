# SPDX-License-Identifier: Apache-2.0
"""ATTESTATION (036): the signed report of a guest that was measured (AMD SEV API 0.24).

The report itself is :mod:`sealpod.sev.report`'s matter; this is who may ask for it, and when.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sealpod.platform.model.firmware import BufferTooSmall, PlatformState
from sealpod.platform.model.guests import GuestState
from sealpod.sev.report import NONCE_SIZE, SIZE, make_report
from sealpod.sev.status import Status

if TYPE_CHECKING:
    from sealpod.platform.model.firmware import Firmware


def attestation(firmware: Firmware, *, handle: int, mnonce: bytes, length: int) -> bytes:
    """The report of a guest that has been measured; ``mnonce`` is 16 bytes of the caller's."""
    firmware.require(PlatformState.WORKING)
    guest = firmware.guests.get(handle)
    guest.require(GuestState.LSECRET, GuestState.RUNNING)
    if length < SIZE:
        raise BufferTooSmall({"length": SIZE})
    if len(mnonce) != NONCE_SIZE:
        raise Status.INVALID_PARAM.error(f"a nonce of {len(mnonce)} bytes")
    digest = guest.launch_digest.digest()
    return make_report(mnonce, digest, guest.policy, firmware.identity.pek.key).encode()
