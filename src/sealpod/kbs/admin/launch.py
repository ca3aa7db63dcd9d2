# SPDX-License-Identifier: Apache-2.0
"""Launches in progress, between their two calls."""

from __future__ import annotations

import time
from typing import Final

from sealpod.kbs.admin.bodies import ROOT, TIME, WORD
from sealpod.kbs.admin.noun import Noun, Verbs
from sealpod.kbs.admin.schema import flag, nullable, structure, text


def _verbs() -> Verbs:
    from sealpod.kbs.store import launches

    return Verbs.of(
        lambda db: launches.list_launches(db, now=time.time()),
        lambda db, key: launches.show_launch(db, key, now=time.time()),
        {"delete": launches.delete_launch},
    )


LAUNCH: Final = Noun(
    name="launches",
    noun="launch",
    title="Launches in progress: a bundle was given, the secret not yet",
    about="launches between bundle and secret",
    help={
        "list": "List launches, the newest first",
        "show": "Show a launch",
        "delete": "End a launch: its secret request will be refused",
    },
    shown=structure(
        {
            "id": text("launch id", most=36),
            "policy": WORD,
            "root": ROOT,
            "chip": nullable(text("SHA-256 of the platform's CEK, hex", most=64)),
            "created": TIME,
            "expires": TIME,
            "expired": flag("whether its time is over"),
        }
    ),
    header=("ID", "POLICY", "ROOT", "CHIP", "CREATED", "EXPIRES", "EXPIRED"),
    verbs=_verbs,
    deletes="End it: it gets no secret",
    deleted="ended",
)
