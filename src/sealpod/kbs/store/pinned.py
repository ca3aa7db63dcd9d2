# SPDX-License-Identifier: Apache-2.0
"""The newest record this process has seen in the log of decisions: must still be there.

The log alone cannot tell that its end was cut off, or that all of it was made anew; whoever noted a hash can.
A broker that runs notes one with each decision, in its memory, where who writes to the database cannot reach.
It says what it found and goes on: a database that was put back to an older state, or whose replica took over
and lacked the last records, looks the same.
"""

from __future__ import annotations

import logging
from typing import Final

from sqlalchemy import Connection, bindparam, select

from sealpod.kbs.core.audit import Entry
from sealpod.kbs.store import schema

_HASH: Final = select(schema.audit.c.hash).where(schema.audit.c.seq == bindparam("number"))

_logger = logging.getLogger(__name__)


class Pinned:
    """Not safe to use from several threads: who has the log's head locked uses it."""

    def __init__(self) -> None:
        self._seen: Entry | None = None
        self.breaks = 0
        """How often the log did not hold what had been seen in it."""

    def compare(self, connection: Connection, head: Entry) -> None:
        """Look whether the log, whose head is ``head``, goes on from what was seen last."""
        seen, self._seen = self._seen, head
        if seen is None or _holds(connection, seen, head):
            return
        self.breaks += 1
        _logger.error(
            "the log of decisions was cut off or made anew: it had number=%d hash=%s, and is at number=%d "
            "hash=%s; compare with an export, log or webhook",
            seen.number,
            seen.hash,
            head.number,
            head.hash,
        )

    def moved(self, entry: Entry) -> None:
        """This process has appended ``entry``, and it is on disk."""
        self._seen = entry


def _holds(connection: Connection, seen: Entry, head: Entry) -> bool:
    if head.number == seen.number:
        return head.hash == seen.hash
    if head.number < seen.number or seen.number == 0:
        return head.number > seen.number
    found = connection.execute(_HASH, {"number": seen.number}).scalar_one_or_none()
    return found == seen.hash
