# SPDX-License-Identifier: Apache-2.0
"""What the admin API manages: each kind of thing, what can be done with it, and how it looks as JSON.

The route ``/v1/<name>`` and the command ``sealpod kbs <noun>`` come from the same entry here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sealpod.kbs.server.admin.schema import Schema, array, flag, nullable, number, structure, text

MAX_SECRET: Final = 16 * 1024
"""Characters of base64 in a request; the database takes less and says how much."""

_POLICY: Final = nullable(text("name of the policy a launch must meet; null for the broker's default only"))
_TIME: Final = nullable(text("UTC, RFC 3339", most=40))
_WORD: Final = number("SEV policy word")
_BYTE: Final = number("0 to 255", 255)
_VERSION: Final = text("MAJOR.MINOR of the SEV API", most=7)
_ROOT: Final = nullable(text("name of the trusted root the platform's chain ended in"))


@dataclass(frozen=True, slots=True)
class Noun:
    """One kind of thing. ``noun`` is its command's name, ``body`` what ``set`` takes."""

    name: str
    noun: str
    about: str
    id: str
    shown: Schema
    body: Schema | None = None
    header: tuple[str, ...] = ()
    reveals: bool = False
    """Whether ``show`` can be asked for a value."""
    deletes: str = "Delete it"

    @property
    def key(self) -> str:
        """The member that holds a list of them: ``reportKeys``."""
        first, *rest = self.name.split("-")
        return first + "".join(word.capitalize() for word in rest)


_RULE: Final[Mapping[str, Schema]] = {
    "digests": array(
        text("launch digest, base64 or hex", most=64), "allowed launch digests; none allows any"
    ),
    "policies": array(_WORD, "allowed SEV policy words; none allows any"),
    "minApi": _VERSION,
    "buildIds": array(_BYTE, "allowed firmware builds; none allows any"),
}

NOUNS: Final = (
    Noun(
        "secrets",
        "secret",
        "keys that images are encrypted with",
        "id",
        structure(
            {
                "id": text("key id"),
                "bytes": nullable(number("size; null when the row cannot be read")),
                "policy": _POLICY,
                "sealed": flag("whether it is encrypted at rest"),
                "value": text("base64; only when asked for", most=MAX_SECRET),
            }
        ),
        structure({"value": text("base64 of the raw bytes", most=MAX_SECRET), "policy": _POLICY}, "value"),
        ("ID", "BYTES", "POLICY", "SEALED"),
        reveals=True,
    ),
    Noun(
        "keysets",
        "keyset",
        "secrets a guest gets as one bundle",
        "id",
        structure(
            {
                "id": text("what a launch asks for", most=50),
                "secrets": nullable(array(text("key id"), "its secrets; null when the row cannot be read")),
                "policy": _POLICY,
            }
        ),
        structure({"secrets": array(text("key id"), "its secrets"), "policy": _POLICY}, "secrets"),
        ("ID", "SECRETS", "POLICY"),
        deletes="Delete it; its secrets stay",
    ),
    Noun(
        "policies",
        "policy",
        "which launches may have a secret",
        "name",
        structure(
            {
                "name": text("its name, or the number of one without a name", most=255),
                "number": number("what simple-kbs' tables call it"),
                "valid": flag("whether it is in force; one that is not refuses everything"),
                **{name: nullable(schema) for name, schema in _RULE.items()},
                "usedBy": array(text("noun and id", most=1100), "what refers to it"),
            }
        ),
        structure(_RULE),
        ("NAME", "NUMBER", "VALID", "DIGESTS", "POLICIES", "MIN API", "BUILDS"),
        deletes="Delete one that nothing refers to",
    ),
    Noun(
        "resources",
        "resource",
        "files that guests get under a type",
        "id",
        structure(
            {
                "id": text("its id"),
                "type": nullable(text("what a guest asks for")),
                "path": nullable(text("path under the broker's directory of resources")),
                "policy": _POLICY,
                "first": flag("whether requests for its type get this one"),
            }
        ),
        structure(
            {
                "type": text("what a guest asks for"),
                "path": text("path under the broker's directory of resources"),
                "policy": _POLICY,
            },
            "type",
            "path",
        ),
        ("ID", "TYPE", "PATH", "POLICY", "FIRST"),
        deletes="Delete it; the file stays",
    ),
    Noun(
        "report-keys",
        "report-key",
        "keys that sign reports of what a launch was",
        "id",
        structure(
            {
                "id": text("report key id"),
                "publicKey": nullable(text("PEM; null when the row cannot be read", most=2048)),
                "policy": _POLICY,
                "sealed": flag("whether it is encrypted at rest"),
            }
        ),
        structure(
            {
                "privateKey": nullable(
                    text("base64 of a PKCS #8 P-256 key; a fresh one if left out", most=4096)
                ),
                "policy": _POLICY,
            }
        ),
        ("ID", "PUBLIC KEY", "POLICY", "SEALED"),
    ),
    Noun(
        "connections",
        "connection",
        "guests that may ask online",
        "id",
        structure(
            {
                "id": text("client id", most=512),
                "active": flag("whether its guest is answered; false once it was withdrawn"),
                "created": _TIME,
                "root": _ROOT,
                "policy": nullable(_WORD),
                "firmware": nullable(text("API major.minor.build", most=40)),
                "digest": nullable(text("launch digest, base64", most=512)),
                "description": nullable(text("what the host called the launch", most=512)),
                "messages": nullable(number("replies so far", 1 << 62)),
            }
        ),
        None,
        ("ID", "ACTIVE", "CREATED", "ROOT", "POLICY", "FIRMWARE", "DIGEST", "DESCRIPTION", "MESSAGES"),
        deletes="Withdraw it: its guest is not answered any more",
    ),
    Noun(
        "launches",
        "launch",
        "launches between bundle and secret",
        "id",
        structure(
            {
                "id": text("launch id", most=36),
                "policy": _WORD,
                "root": _ROOT,
                "chip": nullable(text("SHA-256 of the platform's CEK, hex", most=64)),
                "created": _TIME,
                "expires": _TIME,
                "expired": flag("whether its time is over"),
            }
        ),
        None,
        ("ID", "POLICY", "ROOT", "CHIP", "CREATED", "EXPIRES", "EXPIRED"),
        deletes="End it: it gets no secret",
    ),
)
"""In the order of the documents."""

BY_NAME: Final[Mapping[str, Noun]] = {noun.name: noun for noun in NOUNS}
BY_NOUN: Final[Mapping[str, Noun]] = {noun.noun: noun for noun in NOUNS}

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
        "digest": text("launch digest, base64 or hex", most=64),
        "policy": _WORD,
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
        "digests": array(text("launch digest, base64 or hex", most=64), "further guests to allow"),
        "policies": _RULE["policies"],
        "minApi": _VERSION,
        "buildIds": _RULE["buildIds"],
    }
)
