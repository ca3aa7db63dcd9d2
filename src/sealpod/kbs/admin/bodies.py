# SPDX-License-Identifier: Apache-2.0
"""Parts of the admin API's JSON that several kinds of things share, and what is tried and suggested."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sealpod.kbs.admin.schema import Schema, array, nullable, number, structure, text

POLICY: Final = nullable(text("name of the policy a launch must meet; null for the broker's default only"))
ROOT: Final = nullable(text("name of the trusted root the platform's chain ended in"))
TIME: Final = nullable(text("UTC, RFC 3339", most=40))
WORD: Final = number("SEV policy word")
_BYTE: Final = number("0 to 255", 255)
_PART: Final = "(25[0-5]|2[0-4][0-9]|[01]?[0-9]?[0-9])"
_VERSION: Final = text("MAJOR.MINOR of the SEV API", most=7, pattern=rf"^{_PART}\.{_PART}$")
_DIGEST: Final = "launch digest, base64 or hex"

RULE: Final[Mapping[str, Schema]] = {
    "digests": array(text(_DIGEST, most=64), "allowed launch digests; none allows any"),
    "policies": array(WORD, "allowed SEV policy words; none allows any"),
    "minApi": _VERSION,
    "buildIds": array(_BYTE, "allowed firmware builds; none allows any"),
}

_REQUESTS: Final = array(
    structure(
        {
            "type": text("key, bundle, connection, report or resource", most=16),
            "id": text("id of what is asked for; unused for a connection"),
            "format": text("binary or json", most=16),
        },
        "type",
    ),
    "what the launch asks for",
    most=64,
)
TEST_BODY: Final = structure(
    {
        "digest": text(_DIGEST, most=64),
        "policy": WORD,
        "api": _VERSION,
        "build": _BYTE,
        "requests": _REQUESTS,
    },
    "digest",
    "policy",
    "api",
    "build",
    "requests",
)
SUGGEST_BODY: Final = structure(
    {
        "measurements": array(
            {"type": "object", "description": "a record of `sealpod measure -o json`"},
            "guests to allow",
            most=64,
        ),
        "digests": array(text(_DIGEST, most=64), "further guests to allow"),
        "policies": RULE["policies"],
        "minApi": _VERSION,
        "buildIds": RULE["buildIds"],
    }
)
