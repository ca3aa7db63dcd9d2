# SPDX-License-Identifier: Apache-2.0
"""The broker's database as a process meets it: waiting for it at start, asking it whether it is there."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Final

from sqlalchemy import Engine, QueuePool, func, select

from sealpod.errors import SealpodError, UnavailableError
from sealpod.kbs.store import schema
from sealpod.kbs.store.database import Database
from sealpod.kbs.store.engine import reading

RETRY: Final = 0.5
"""Seconds between attempts to open a database that does not answer yet."""
TELL: Final = 5.0
"""Seconds between saying that it is still waited for."""
COUNT_FRESH: Final = 5.0
"""Seconds a count of launches serves again."""

_logger = logging.getLogger(__name__)


def open_waiting(
    opener: Callable[[], Database],
    *,
    seconds: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Database:
    """What ``opener`` opens; while the database does not answer, try again for ``seconds``.

    :raise UnavailableError: it did not answer in that time. :raise SealpodError: it answered, and refused.
    """
    begin, told = clock(), -math.inf
    while True:
        try:
            return opener()
        except UnavailableError as error:
            now = clock()
            left = seconds - (now - begin)
            if left <= 0:
                raise _gave_up(error, seconds) from error
            if now - told >= TELL:
                told = now
                _logger.warning("waiting for the database: %s", error.message)
            sleep(min(RETRY, left))


def _gave_up(error: UnavailableError, seconds: float) -> UnavailableError:
    if seconds > 0:
        message, remedy = f"{error.message}, for {seconds:g} seconds", error.remedy
    else:
        message, remedy = error.message, f"{error.remedy}; --wait-for-database SECONDS waits for it"
    return UnavailableError(message, code=error.code, remedy=remedy)


def check_database(engine: Engine) -> None:
    """Return if the database answers with our tables. :raise SealpodError: it does not."""
    with reading(engine) as connection:
        connection.execute(select(schema.secrets.c.id).limit(1)).first()
        connection.execute(select(schema.launches.c.launch_id).limit(1)).first()


class LaunchCount:
    """How many launches are in progress, asked of the database now and then."""

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock
        self._count = math.nan
        self._asked = -math.inf

    def __call__(self) -> float:
        if time.monotonic() - self._asked > COUNT_FRESH:
            self._asked = time.monotonic()
            self._count = self._ask()
        return self._count

    def _ask(self) -> float:
        table = schema.launches
        statement = select(func.count()).select_from(table).where(table.c.expires_at > self._clock())
        try:
            with reading(self._engine) as connection:
                return float(connection.execute(statement).scalar_one())
        except SealpodError:
            return math.nan  # "Not known" in Prometheus' form; readiness says why.


def connections_in_use(engine: Engine) -> float:
    """Connections of the pool that calls hold now."""
    pool = engine.pool
    return float(pool.checkedout()) if isinstance(pool, QueuePool) else math.nan


def connections_open(engine: Engine) -> float:
    """Connections of the pool, in use or not."""
    pool = engine.pool
    return float(pool.checkedout() + pool.checkedin()) if isinstance(pool, QueuePool) else math.nan
