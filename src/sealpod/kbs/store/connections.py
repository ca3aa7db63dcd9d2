# SPDX-License-Identifier: Apache-2.0
"""The key owner's view of connections: which guests may ask online, and taking that away.

A connection is revoked by its ``delete_date``, which simple-kbs' table has and simple-kbs does not use. Who
takes a guest's connection away means all of its launch: those it got online begin when the first did, on the
same platform, and go with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    case,
    cast,
    delete,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.types import String

from sealpod.errors import NotFoundError
from sealpod.kbs.store import columns, moments, schema
from sealpod.kbs.store.admin import storable
from sealpod.kbs.store.database import Database
from sealpod.kbs.store.engine import reading

MAX_LISTED: Final = 1000
"""Connections listed when nobody says otherwise; there may be a hundred thousand."""


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """A connection without its key. ``created`` is UTC where this broker made it, else the table's text."""

    id: str
    active: bool
    created: str | None
    root: str | None
    policy: int | None
    firmware: str | None
    digest: str | None
    description: str | None
    messages: int | None


def list_connections(
    db: Database, *, active: bool | None = None, limit: int = MAX_LISTED
) -> tuple[ConnectionInfo, ...]:
    """Connections, the newest of this broker first, then those simple-kbs made; ``active`` filters."""
    statement = _select().order_by(_NO_TIME, _OURS.c.created_at.desc(), _TABLE.c.id).limit(limit)
    if active is not None:
        statement = statement.where(_ACTIVE if active else not_(_ACTIVE))
    with reading(db.engine) as connection:
        return tuple(_info(row) for row in connection.execute(statement).all())


def show_connection(db: Database, client_id: str) -> ConnectionInfo:
    """:raise NotFoundError: there is none."""
    _check(db, client_id)
    with reading(db.engine) as connection:
        row = connection.execute(_select().where(_TABLE.c.id == client_id)).one_or_none()
    if row is None:
        raise _unknown(client_id)
    return _info(row)


def revoke_connection(db: Database, client_id: str) -> None:
    """Refuse this guest from now on; its rows stay as a record. :raise NotFoundError: there is none."""
    with db.writing() as connection:
        ended = update(_TABLE).where(_TABLE.c.id.in_(_of_launch(connection, db, client_id)), _ACTIVE)
        connection.execute(ended.values(delete_date=moments.Now()))


def delete_connection(db: Database, client_id: str) -> None:
    """Forget a guest's connection altogether. :raise NotFoundError: there is none."""
    with db.writing() as connection:
        ids = _of_launch(connection, db, client_id)
        connection.execute(delete(_OURS).where(_OURS.c.client_id.in_(ids)))
        connection.execute(delete(_TABLE).where(_TABLE.c.id.in_(ids)))


_TABLE: Final = schema.conn_bundle
_OURS: Final = schema.connections
_ACTIVE: Final = moments.has_not_ended(_TABLE.c.delete_date)
_PLATFORM: Final = ("root", "ark", "chain", "chip")
_NO_TIME: Final = case((_OURS.c.created_at.is_(None), 1), else_=0)


def _select() -> Select[Any]:
    return select(
        _TABLE.c.id,
        case((_ACTIVE, 1), else_=0).label("active"),
        # As text: SQLite holds whatever a hand-written statement put there.
        cast(_TABLE.c.create_date, String(32)).label("create_text"),
        _TABLE.c.policy,
        _TABLE.c.fw_api_major,
        _TABLE.c.fw_api_minor,
        _TABLE.c.fw_build_id,
        _TABLE.c.fw_digest,
        _TABLE.c.launch_description,
        _OURS.c.created_at,
        _OURS.c.root,
        _OURS.c.messages,
    ).select_from(_TABLE.outerjoin(_OURS, _OURS.c.client_id == _TABLE.c.id))


def _of_launch(connection: Connection, db: Database, client_id: str) -> list[str]:
    """This connection and all of its launch. :raise NotFoundError: there is none."""
    _check(db, client_id)
    if connection.execute(select(_TABLE.c.id).where(_TABLE.c.id == client_id)).first() is None:
        raise _unknown(client_id)
    asked = _OURS.alias()
    same = and_(
        _OURS.c.created_at == asked.c.created_at, *(_alike(_OURS.c[one], asked.c[one]) for one in _PLATFORM)
    )
    further = select(_OURS.c.client_id).join(asked, same).where(asked.c.client_id == client_id)
    return [client_id, *connection.execute(further).scalars()]


def _alike(one: ColumnElement[Any], other: ColumnElement[Any]) -> ColumnElement[bool]:
    return or_(one == other, and_(one.is_(None), other.is_(None)))


def _info(row: Row[Any]) -> ConnectionInfo:
    version = (row.fw_api_major, row.fw_api_minor, row.fw_build_id)
    return ConnectionInfo(
        id=row.id,
        active=row.active == 1,
        created=columns.moment(row.created_at) or row.create_text,
        root=row.root,
        policy=columns.unsigned(row.policy) if isinstance(row.policy, int) else None,
        firmware=None if None in version else ".".join(str(part) for part in version),
        digest=row.fw_digest,
        description=row.launch_description,
        messages=row.messages,
    )


def _check(db: Database, client_id: str) -> None:
    if not storable(db.engine.dialect.name, client_id):
        raise _unknown(client_id)


def _unknown(client_id: str) -> NotFoundError:
    return NotFoundError(
        f"no connection {client_id!r}",
        code="connection.unknown",
        remedy="see `sealpod kbs connection list`",
    )
