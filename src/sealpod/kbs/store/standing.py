# SPDX-License-Identifier: Apache-2.0
"""What a connection stands for: the launch that was proven, and the platform it was proven on.

A connection's key is sealed together with it. Policies judge a guest by these columns, so who may write to
the database but has no key-encryption key must not be able to make one guest's connection that of another.
Not among them: the host's free text, which proves nothing; simple-kbs' dates, which only end it; the number
of its replies.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Final

from sealpod.kbs.core.records import Connection
from sealpod.kbs.store import columns, schema

_CLAIMED: Final = ("policy", "fw_api_major", "fw_api_minor", "fw_build_id", "fw_digest")
_PROVEN: Final = ("root", "ark", "chain", "chip", "created_at")

COLUMNS: Final = (
    *(schema.conn_bundle.c[name] for name in _CLAIMED),
    *(schema.connections.c[name] for name in _PROVEN),
)
"""What a statement selects for :func:`of_row`."""
SOURCE: Final = schema.conn_bundle.outerjoin(
    schema.connections, schema.connections.c.client_id == schema.conn_bundle.c.id
)
"""Where it finds them: a connection that simple-kbs made has no row of ours until it is used."""


def of_row(row: Any) -> bytes:
    """The standing of a connection that is kept, from a row with :data:`COLUMNS`."""
    *platform, began = (getattr(row, name) for name in _PROVEN)
    return _form([getattr(row, name) for name in _CLAIMED], platform, began)


def of_connection(made: Connection) -> bytes:
    """The standing of one that is to be kept."""
    evidence, platform = made.evidence, made.platform
    version = (evidence.api_major, evidence.api_minor, evidence.build_id)
    proven = (None,) * 4 if platform is None else (platform.root, platform.ark, platform.chain, platform.chip)
    return _form((columns.signed(evidence.policy), *version, evidence.digest), proven, made.created_at)


def _form(claimed: Sequence[Any], platform: Sequence[Any], began: Any) -> bytes:
    # Without a platform it is one of simple-kbs', which begins here when it is first used.
    known = platform[0] is not None and isinstance(began, int | float) and math.isfinite(began)
    # In milliseconds, which every database gives back as they were.
    moment = round(began * 1000) if known else None
    # SQLite keeps what is of no type; that has a form, and no connection was ever sealed with it.
    return json.dumps([*claimed, *platform, moment], default=repr).encode()
