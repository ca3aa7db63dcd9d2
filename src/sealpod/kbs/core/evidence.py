# SPDX-License-Identifier: Apache-2.0
"""What a launch claims about itself, and what a connection keeps of it (simple-kbs' ``Connection``).

The claim comes from the host. It is worth something only because the measurement, which the firmware keyed
with a secret of ours, is made over the same policy, version and digest; that check is not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sealpod.errors import DecodeError, RefusedError
from sealpod.kbs.core.encoding import decode_base64, encode_base64

DIGEST_SIZE: Final = 32
"""Bytes of a launch digest (SHA-256)."""
MAX_VERSION_BYTE: Final = 0xFF
"""API major, API minor and build are one byte each in the measurement (AMD SEV API, LAUNCH_MEASURE)."""
MAX_DESCRIPTION: Final = 256
"""Characters kept of a launch description; the tables' column takes 512."""

_OUT_OF_RANGE_REMEDY: Final = "send the version PLATFORM_STATUS reports; each part is 0 to 255"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Policy word, firmware version and launch digest of one launch.

    ``digest`` is base64 in its one canonical spelling, because simple-kbs' policies compare text.
    """

    policy: int
    api_major: int
    api_minor: int
    build_id: int
    digest: str
    description: str

    def digest_bytes(self) -> bytes:
        """The launch digest, 32 bytes.

        :raise DecodeError: the record holds something else.
        """
        return decode_digest(self.digest)


def decode_digest(text: str) -> bytes:
    """A launch digest from base64.

    :raise DecodeError: not base64, or not 32 bytes.
    """
    digest = decode_base64(text, limit=4 * DIGEST_SIZE)
    if len(digest) != DIGEST_SIZE:
        raise DecodeError(f"launch digest has {len(digest)} bytes, not {DIGEST_SIZE}", code="request.digest")
    return digest


def encode_digest(digest: bytes) -> str:
    """A launch digest as the tables and the wire spell it."""
    return encode_base64(digest)


def check_version_bytes(api_major: int, api_minor: int, build_id: int) -> None:
    """Refuse version numbers the measurement cannot hold.

    simple-kbs compares the full number with the policy's minimum and measures its low byte, so that 257
    passes for 1; the texts are those of its policy check.

    :raise RefusedError: a number above 255.
    """
    for value, text in (
        (api_major, "fw api major not valid"),
        (api_minor, "fw api minor not valid"),
        (build_id, "build id not valid"),
    ):
        if not 0 <= value <= MAX_VERSION_BYTE:
            raise RefusedError(text, code="request.version-range", remedy=_OUT_OF_RANGE_REMEDY)


def clean_description(text: str) -> str:
    """Free text of a stranger, made fit for a log line and a column: printable, one line, bounded.

    Characters beyond the Basic Multilingual Plane go too: MySQL's ``utf8`` columns refuse them.
    """
    kept = text[:MAX_DESCRIPTION]
    return "".join(char if char.isprintable() and ord(char) <= 0xFFFF else "?" for char in kept)
