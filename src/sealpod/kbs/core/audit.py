# SPDX-License-Identifier: Apache-2.0
"""One record per decision: who asked for what on what evidence, and what the broker said."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Literal

Outcome = Literal["granted", "refused", "failed"]


@dataclass(slots=True)
class Decision:
    """What one call decided. Filled while the call goes on; never holds secret bytes.

    ``secrets`` are ``type:id`` labels; ``root`` names the trust root the platform's chain ended in and is
    ``model`` for software platforms; ``reason`` is the text the caller got.
    """

    call: str
    outcome: Outcome = "failed"
    code: str = ""
    launch: str = ""
    client: str = ""
    root: str = ""
    ark: str = ""
    policy: str = ""
    digest: str = ""
    firmware: str = ""
    secrets: tuple[str, ...] = ()
    description: str = ""
    reason: str = ""

    def line(self) -> str:
        """``key=value`` pairs in one ASCII line; values as JSON, so that no value can pretend to be two."""
        pairs = ((one.name, getattr(self, one.name)) for one in fields(self))
        return " ".join(f"{name}={json.dumps(value)}" for name, value in pairs if value)
