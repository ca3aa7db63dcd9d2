# SPDX-License-Identifier: Apache-2.0
"""ATTESTATION (036): the signed report of a guest that was measured (AMD SEV API 0.24). 208 bytes::

    off   len  field
    0x00   16  MNONCE, the caller's
    0x10   32  LAUNCH_DIGEST
    0x30    4  POLICY
    0x34    4  SIG_USAGE, 0x1002: the PEK signs
    0x38    4  SIG_ALGO, 0x0002
    0x3C    4  reserved
    0x40  144  R and S, 72 bytes each, of ECDSA-SHA256 over the first 52 bytes

All little-endian.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from sealpod.platform.model.firmware import BufferTooSmall, PlatformState
from sealpod.platform.model.guests import GuestState
from sealpod.sev.measurement import NONCE_SIZE
from sealpod.sev.signature import ECDSA_SIZE, Algorithm, Usage, sign_bytes
from sealpod.sev.status import Status

if TYPE_CHECKING:
    from sealpod.platform.model.firmware import Firmware

_SIGNED: Final = struct.Struct("<16s32sI")
_SIGNER: Final = struct.Struct("<III")
REPORT_SIZE: Final = _SIGNED.size + _SIGNER.size + ECDSA_SIZE
"""208 bytes."""


def attestation(firmware: Firmware, *, handle: int, mnonce: bytes, length: int) -> bytes:
    """The report of a guest that has been measured; ``mnonce`` is 16 bytes of the caller's."""
    firmware.require(PlatformState.WORKING)
    guest = firmware.guests.get(handle)
    guest.require(GuestState.LSECRET, GuestState.RUNNING)
    if length < REPORT_SIZE:
        raise BufferTooSmall({"length": REPORT_SIZE})
    if len(mnonce) != NONCE_SIZE:
        raise Status.INVALID_PARAM.error(f"a nonce of {len(mnonce)} bytes")
    signed = _SIGNED.pack(mnonce, guest.launch_digest.digest(), guest.policy.value)
    algorithm = Algorithm.ECDSA_SHA256
    signature = sign_bytes(firmware.identity.pek.key, algorithm, signed)
    return signed + _SIGNER.pack(Usage.PEK, algorithm, 0) + signature[:ECDSA_SIZE]
