# SPDX-License-Identifier: Apache-2.0
"""The key owner's view of launches in progress: between GetBundle and GetSecret."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, Select, delete, select

from sealpod.errors import NotFoundError
from sealpod.kbs.store import columns, schema
from sealpod.kbs.store.admin import storable
from sealpod.kbs.store.database import Database
from sealpod.kbs.store.engine import reading

MAX_LISTED: Final = 1000
"""Launches listed when nobody says otherwise."""
UNREADABLE: Final = "unreadable"
"""Instead of a time that is none, as SQLite lets anybody write."""
_TABLE: Final = schema.launches


@dataclass(frozen=True, slots=True)
class LaunchInfo:
    """A launch without its keys; times in UTC. ``expired`` ones are not answered any more."""

    id: str
    policy: int
    root: str
    chip: str
    created: str
    expires: str
    expired: bool


def list_launches(db: Database, *, now: float, limit: int = MAX_LISTED) -> tuple[LaunchInfo, ...]:
    """Launches in progress at ``now`` (seconds since the epoch), the newest first."""
    with reading(db.engine) as connection:
        rows = connection.execute(_select().order_by(_TABLE.c.created_at.desc()).limit(limit)).all()
    return tuple(_info(row, now) for row in rows)


def show_launch(db: Database, launch_id: str, *, now: float) -> LaunchInfo:
    """:raise NotFoundError: there is none."""
    _check(db, launch_id)
    with reading(db.engine) as connection:
        row = connection.execute(_select().where(_TABLE.c.launch_id == launch_id)).one_or_none()
    if row is None:
        raise _unknown(launch_id)
    return _info(row, now)


def delete_launch(db: Database, launch_id: str) -> None:
    """End a launch: its secret request will be refused. :raise NotFoundError: there is none."""
    _check(db, launch_id)
    with db.writing() as connection:
        if connection.execute(delete(_TABLE).where(_TABLE.c.launch_id == launch_id)).rowcount == 0:
            raise _unknown(launch_id)


def _select() -> Select[Any]:
    return select(
        _TABLE.c.launch_id,
        _TABLE.c.policy,
        _TABLE.c.root,
        _TABLE.c.chip,
        _TABLE.c.created_at,
        _TABLE.c.expires_at,
    )


def _info(row: Row[Any], now: float) -> LaunchInfo:
    return LaunchInfo(
        id=row.launch_id,
        policy=row.policy,
        root=row.root,
        chip=row.chip,
        created=columns.moment(row.created_at) or UNREADABLE,
        expires=columns.moment(row.expires_at) or UNREADABLE,
        expired=not isinstance(row.expires_at, float) or row.expires_at <= now,
    )


def _check(db: Database, launch_id: str) -> None:
    if not storable(db.engine.dialect.name, launch_id):
        raise _unknown(launch_id)


def _unknown(launch_id: str) -> NotFoundError:
    return NotFoundError(
        f"no launch {launch_id!r} in progress", code="launch.unlisted", remedy="see `sealpod kbs launch list`"
    )
