# SPDX-License-Identifier: Apache-2.0
"""Secrets: the keys the broker releases one by one or in keysets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sealpod.kbs.admin.bodies import POLICY
from sealpod.kbs.admin.noun import Noun, Object, Setting, Verbs
from sealpod.kbs.admin.schema import flag, nullable, number, structure, text
from sealpod.kbs.admin.values import read_secret_file, secret_value

if TYPE_CHECKING:
    import argparse

    from sealpod.kbs.store.database import Database

MAX_SECRET: Final = 16 * 1024
"""Characters of base64 in a request; the database takes less and says how much."""


def _verbs() -> Verbs:
    from sealpod.kbs.store import secrets

    def shown(info: secrets.SecretInfo) -> Object:
        return {"id": info.id, "bytes": info.size, "policy": info.policy, "sealed": info.sealed}

    ends = {"delete": secrets.delete_secret}
    return Verbs.of(
        secrets.list_secrets, secrets.show_secret, ends, shown=shown, reveal=secrets.reveal_secret
    )


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from-file", metavar="FILE", required=True, help="the raw bytes of the secret; - for standard input"
    )
    parser.add_argument(
        "--policy",
        metavar="NAME",
        help="who may have it; without this option nothing but the broker's default",
    )


def _reads(args: argparse.Namespace) -> Object:
    return {"value": read_secret_file(args.from_file), "policy": args.policy}


def _write(db: Database, key: str, body: Object) -> None:
    from sealpod.kbs.store.secrets import set_secret

    set_secret(db, key, secret_value(body["value"]), policy=body.get("policy"))


def _done(key: str, body: Object, _shown: Object) -> tuple[str, dict[str, Any]]:
    size, policy = len(body["value"]), body["policy"]
    sentence = f"secret {key} set, {size} bytes, policy: {policy or 'none'}"
    return sentence, {"id": key, "bytes": size, "policy": policy}


SECRET: Final = Noun(
    name="secrets",
    noun="secret",
    title="Secrets: keys that images are encrypted with",
    about="keys that images are encrypted with",
    help={
        "set": "Make or replace a secret",
        "list": "List all secrets, without their values",
        "show": "Show a secret",
        "delete": "Delete a secret",
    },
    shown=structure(
        {
            "id": text("key id"),
            "bytes": nullable(number("size; null when the row cannot be read")),
            "policy": POLICY,
            "sealed": flag("whether it is encrypted at rest"),
            "value": text("base64; only when asked for", most=MAX_SECRET),
        }
    ),
    header=("ID", "BYTES", "POLICY", "SEALED"),
    verbs=_verbs,
    setting=Setting(
        structure(
            {"value": text("base64 of the raw bytes", most=MAX_SECRET, minLength=4), "policy": POLICY},
            "value",
        ),
        _options,
        _reads,
        _write,
        _done,
        id_help="what requests and images call it, for instance key_id1",
    ),
    reveals=True,
)
