# SPDX-License-Identifier: Apache-2.0
"""The secret packet of LAUNCH_SECRET (SEV API 0.17 and later, packet header).

52 bytes of header beside the encrypted data, little-endian::

    off  len  field
      0    4  FLAGS: bit 0 compressed (no firmware takes it), else zero
      4   16  IV
     20   32  MAC

    data = AES-128-CTR(TEK, IV, plaintext)
    MAC  = HMAC-SHA256(TIK, 01 | FLAGS | IV | LE32(plain length) | LE32(data length) | data | MEASURE)

MEASURE is the launch measurement without its nonce; through it a packet fits one launch only. To make a
packet go through :meth:`sealpod.sev.measurement.VerifiedLaunch.pack`, which exists only after the launch has
been verified; :func:`pack` below is the bare format, and a test holds that nothing else calls it.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from typing import Final

from sealpod.errors import UsageError
from sealpod.secret import SecretBytes
from sealpod.sev.kdf import aes_ctr, hmac_sha256
from sealpod.sev.session import TransportKeys
from sealpod.sev.status import Status

_HEADER = struct.Struct("<I16s32s")
HEADER_SIZE: Final = _HEADER.size
"""52 bytes."""
IV_SIZE: Final = 16
MEASURE_SIZE: Final = 32
BLOCK_SIZE: Final = 16
MAX_DATA_SIZE: Final = 0x4000
"""16 KiB: the SEV API's and Linux' limit (SEV_FW_BLOB_MAX_SIZE)."""

_CONTEXT: Final = b"\x01"


@dataclass(frozen=True, slots=True)
class Packet:
    """What the host passes to the firmware."""

    header: bytes
    """52 bytes."""
    data: bytes
    """Encrypted; 16 bytes to 16 KiB, a multiple of 16."""


def pack(keys: TransportKeys, plaintext: bytes, measure: bytes, *, iv: bytes) -> Packet:
    """Encrypt ``plaintext`` for the launch of ``measure`` (32 bytes). Use an IV (16 bytes) once per TEK.

    :raise UsageError: a size the firmware would refuse.
    """
    if not _fits(len(plaintext)):
        raise UsageError(
            f"a secret packet carries 16 to {MAX_DATA_SIZE} bytes in blocks of 16, not {len(plaintext)}",
            code="packet.size",
        )
    if len(iv) != IV_SIZE or len(measure) != MEASURE_SIZE:
        raise UsageError("a packet needs an IV of 16 and a measurement of 32 bytes", code="packet.size")
    data = aes_ctr(keys.tek.reveal(), iv, plaintext)
    return Packet(_HEADER.pack(0, iv, _mac(keys, 0, iv, data, measure)), data)


def unpack(keys: TransportKeys, header: bytes, data: bytes, measure: bytes) -> SecretBytes:
    """The firmware's side: check the packet and decrypt it. The order of the checks is the firmware's.

    :raise FirmwareError: INVALID_LENGTH; BAD_MEASUREMENT when the MAC does not match; UNSUPPORTED when the
        (authenticated) flags are not zero.
    """
    if len(header) != HEADER_SIZE:
        raise Status.INVALID_LENGTH.error(f"a packet header has {HEADER_SIZE} bytes, got {len(header)}")
    if not _fits(len(data)):
        raise Status.INVALID_LENGTH.error(f"a packet of {len(data)} bytes")
    flags, iv, mac = _HEADER.unpack(header)
    if not hmac.compare_digest(_mac(keys, flags, iv, data, measure), mac):
        raise Status.BAD_MEASUREMENT.error("the packet is for another launch, or was changed")
    if flags:
        raise Status.UNSUPPORTED.error(f"packet flags {flags:#x}")
    return SecretBytes(aes_ctr(keys.tek.reveal(), iv, data))


def _fits(size: int) -> bool:
    return 0 < size <= MAX_DATA_SIZE and size % BLOCK_SIZE == 0


def _mac(keys: TransportKeys, flags: int, iv: bytes, data: bytes, measure: bytes) -> bytes:
    # Plain and transport length are equal: there is no compression.
    head = _CONTEXT + struct.pack("<I16sII", flags, iv, len(data), len(data))
    return hmac_sha256(keys.tik.reveal(), head + data + measure)
