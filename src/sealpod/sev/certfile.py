# SPDX-License-Identifier: Apache-2.0
"""Certificates in a file, whatever they are: for showing and splitting, where no order is demanded.

SEV certificates and AMD's CA certificates follow one another without framing; both begin with a version of
1. A CA certificate is told by its usage at 0x24, sixteen zeros behind it, and two equal key sizes of 2048 or
4096: in an SEV certificate these bytes are inside a coordinate of a curve point.
"""

from __future__ import annotations

import struct
from typing import Final

from sealpod.errors import DecodeError
from sealpod.sev import cert
from sealpod.sev.ca import CaCertificate
from sealpod.sev.cert import Certificate
from sealpod.sev.chainfile import MAX_SIZE
from sealpod.sev.signature import Usage

_CA_MARKS = struct.Struct("<36xI16sII")
_CA_USAGES: Final = (Usage.ARK, Usage.ASK)


def decode_certificates(data: bytes) -> tuple[Certificate | CaCertificate, ...]:
    """Every certificate of ``data``, in its order. Nothing is verified.

    :raise DecodeError: not at least one certificate, or anything that is none between or behind them.
    """
    if not data:
        raise DecodeError("an empty file holds no certificate", code="cert.malformed")
    if len(data) > MAX_SIZE:
        raise DecodeError(f"{len(data)} bytes are more than any chain", code="cert.malformed")
    found: list[Certificate | CaCertificate] = []
    offset = 0
    while offset < len(data):
        try:
            certificate, size = _decode_one(data[offset:])
        except DecodeError as error:
            raise DecodeError(f"at byte {offset}: {error.message}", code=error.code) from error
        found.append(certificate)
        offset += size
    return tuple(found)


def _decode_one(data: bytes) -> tuple[Certificate | CaCertificate, int]:
    if _is_ca(data):
        return CaCertificate.decode(data)
    return Certificate.decode(data[: cert.SIZE]), cert.SIZE


def _is_ca(data: bytes) -> bool:
    if len(data) < _CA_MARKS.size:
        return False
    usage, reserved, exponent_bits, bits = _CA_MARKS.unpack_from(data)
    return usage in _CA_USAGES and not any(reserved) and bits == exponent_bits and bits in (2048, 4096)
