# SPDX-License-Identifier: Apache-2.0
"""How many launches and connections there are, without counting them each time, and whose.

Places are limited, and whoever has a genuine platform's certificates may take them. So that one platform
cannot take them all, it gets no more than its share once half of them are taken.
"""

from __future__ import annotations

import time
from typing import Final

from sqlalchemy import Connection, Table, bindparam, func, select

from sealpod.errors import RefusedError

RECOUNT: Final = 1.0
"""Seconds for which a count of rows, and the rows found expired, are good. Other replicas may exceed a limit
by what they add in this time."""
SHARE: Final = 8
"""A chip has at most one place in so many, once half of all are taken."""
LEAST_SHARE: Final = 512
"""But never fewer than this: a chip of SEV has some 500 address space ids, so as many guests at once."""

TOO_MANY_LAUNCHES: Final = (
    "launches are in progress",
    "launch.too-many",
    "Try again when some have ended; each ends by its secret request or its time",
)
TOO_MANY_CONNECTIONS: Final = (
    "connections are kept",
    "connection.too-many",
    "Delete those of guests that are gone, or shorten the time they are kept (--connection-ttl)",
)


class Census:
    """How many rows a table has, in all and of a chip: counted now and then, and kept up with what this
    process adds."""

    def __init__(self, table: Table) -> None:
        self._statement = select(func.count()).select_from(table)
        self._of_chip = self._statement.where(table.c.chip == bindparam("chip"))
        self._count = 0
        self._chips: dict[str, int] = {}
        self._until = float("-inf")

    def stale(self, limit: int) -> bool:
        # At the limit the count decides, so it is made anew however young it is.
        return time.monotonic() >= self._until or self._count >= limit

    def recount(self, connection: Connection) -> None:
        self._count = int(connection.execute(self._statement).scalar_one())
        self._chips.clear()
        self._until = time.monotonic() + RECOUNT

    def forget(self) -> None:
        self._until = float("-inf")

    def add(
        self, connection: Connection, number: int, limit: int, refusal: tuple[str, str, str], chip: str | None
    ) -> None:
        """``number`` more rows of ``chip``. :raise RefusedError: as ``refusal`` says."""
        noun, code, remedy = refusal
        if self._count + number > limit:
            raise RefusedError(f"{self._count} {noun}", code=code, remedy=remedy)
        if chip is not None and 2 * (self._count + number) > limit:
            held = self._held(connection, chip)
            if held + number > max(LEAST_SHARE, limit // SHARE):
                raise RefusedError(f"{held} {noun} on this platform alone", code=code, remedy=remedy)
            self._chips[chip] = held + number
        self._count += number

    def remove(self, number: int) -> None:
        self._count = max(0, self._count - number)

    def _held(self, connection: Connection, chip: str) -> int:
        found = self._chips.get(chip)
        # What the same transaction has yet to insert is missed, once, and is at most a batch.
        return int(connection.execute(self._of_chip, {"chip": chip}).scalar_one()) if found is None else found
