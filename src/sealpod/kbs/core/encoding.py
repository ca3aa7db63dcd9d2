# SPDX-License-Identifier: Apache-2.0
"""Base64 as the broker's wire and tables have it: standard alphabet, padded, one spelling per value.

Strict on purpose: a stored key with a trailing newline would pass a lax decoder here and be refused by the
guest after the launch, when nothing can be done about it.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from sealpod.errors import DecodeError

_FOREIGN: Final = re.compile(r"[^A-Za-z0-9+/=]")


def decode_base64(text: str, *, limit: int) -> bytes:
    """The bytes of ``text``, at most ``limit`` of them.

    :raise DecodeError: a character outside the alphabet, wrong padding, spare bits that are not zero, or
        more than ``limit`` bytes. The message names a position, never the text.
    """
    if len(text) > (limit + 2) // 3 * 4:
        raise DecodeError(f"more than {limit} bytes of base64", code="base64.too-long")
    foreign = _FOREIGN.search(text)
    if foreign is not None:
        raise DecodeError(
            f"Invalid byte {ord(foreign[0])}, offset {foreign.start()}.", code="base64.malformed"
        )
    try:
        value = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise DecodeError("Invalid base64 padding or length.", code="base64.malformed") from None
    if encode_base64(value) != text:
        raise DecodeError("Invalid last symbol of base64.", code="base64.malformed")
    if len(value) > limit:
        raise DecodeError(f"more than {limit} bytes of base64", code="base64.too-long")
    return value


def encode_base64(value: bytes) -> str:
    """``value`` in the standard alphabet with padding."""
    return base64.b64encode(value).decode("ascii")
