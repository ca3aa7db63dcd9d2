# SPDX-License-Identifier: Apache-2.0
"""GUIDs as EFI writes them.

A GUID is a :class:`uuid.UUID` everywhere in sealpod. In tables (OVMF footer, hashes table, secret table)
its first three fields are little-endian: ``guid.bytes_le``. As text it is the usual hyphenated form.
"""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

from sealpod.errors import DecodeError

GUID_SIZE: Final = 16
"""Bytes of a GUID in a table."""

NIL_GUID: Final = UUID(int=0)
"""Marks a deleted entry in the secret table (Linux efi_secret overwrites a GUID with it)."""

# uuid.UUID alone would also take braces, URNs, underscores and hyphens in any place.
_TEXT = re.compile(r"[0-9a-fA-F]{8}(-?)(?:[0-9a-fA-F]{4}\1){3}[0-9a-fA-F]{12}", re.ASCII)


def parse_guid(text: str) -> UUID:
    """A GUID from its hyphenated form, or from 32 hex digits without hyphens; case does not matter.

    :raise DecodeError: when the text is anything else.
    """
    if len(text) > 36 or _TEXT.fullmatch(text) is None:
        raise DecodeError(f"not a GUID: {text[:48]!r}", code="decode.guid")
    return UUID(text)
