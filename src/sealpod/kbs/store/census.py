# SPDX-License-Identifier: Apache-2.0
"""How many launches and connections there are, without counting them each time."""

from __future__ import annotations

import time
from typing import Final

from sqlalchemy import Connection, Table, func, select

from sealpod.errors import RefusedError

RECOUNT: Final = 1.0
"""Seconds for which a count of rows, and the rows found expired, are good. Other replicas may exceed a limit
by what they add in this time."""

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
    """How many rows a table has: counted now and then, and kept up with what this process adds."""

    def __init__(self, table: Table) -> None:
        self._statement = select(func.count()).select_from(table)
        self._count = 0
        self._until = float("-inf")

    def stale(self, limit: int) -> bool:
        # At the limit the count decides, so it is made anew however young it is.
        return time.monotonic() >= self._until or self._count >= limit

    def recount(self, connection: Connection) -> None:
        self._count = int(connection.execute(self._statement).scalar_one())
        self._until = time.monotonic() + RECOUNT

    def forget(self) -> None:
        self._until = float("-inf")

    def add(self, number: int, limit: int, refusal: tuple[str, str, str]) -> None:
        if self._count + number > limit:
            noun, code, remedy = refusal
            raise RefusedError(f"{self._count} {noun}", code=code, remedy=remedy)
        self._count += number

    def remove(self, number: int) -> None:
        self._count = max(0, self._count - number)
