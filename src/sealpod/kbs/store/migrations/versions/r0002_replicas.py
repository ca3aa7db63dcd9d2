# SPDX-License-Identifier: Apache-2.0
"""What replicas share beside simple-kbs' tables: launches in progress, their connections, the audit log."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_LONG = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_OURS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
    "mariadb_collate": "utf8mb4_bin",
}
_NAMES = ("sealpod_launches", "sealpod_connections", "sealpod_audit", "sealpod_audit_head")


def upgrade() -> None:
    there = set(sa.inspect(op.get_bind()).get_table_names())
    if "sealpod_launches" in there and not _has("sealpod_launches", "chip"):
        # Of before there were revisions. Launches last minutes, and these are sealed under forgotten keys.
        op.drop_table("sealpod_launches")
        there.remove("sealpod_launches")
    for name, columns in _tables().items():
        if name not in there:
            op.create_table(name, *columns, **_OURS)
    head = sa.table("sealpod_audit_head", sa.column("id"), sa.column("seq"), sa.column("hash"))
    if op.get_bind().execute(sa.select(head.c.id)).first() is None:
        # There from the start, so that replicas that decide first, at the same time, have a row to lock.
        op.bulk_insert(head, [{"id": 1, "seq": 0, "hash": "0" * 64}])
    _index("sealpod_launches", "expires_at")
    _index("sealpod_connections", "created_at")


def downgrade() -> None:
    there = set(sa.inspect(op.get_bind()).get_table_names())
    for name in _NAMES:
        if name in there:
            op.drop_table(name)


def _has(table: str, column: str) -> bool:
    return column in {one["name"] for one in sa.inspect(op.get_bind()).get_columns(table)}


def _index(table: str, column: str) -> None:
    name = f"ix_{table}_{column}"
    if name not in {one["name"] for one in sa.inspect(op.get_bind()).get_indexes(table)}:
        op.create_index(name, table, [column])


def _platform(*, nullable: bool) -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("root", sa.String(255), nullable=nullable),
        sa.Column("ark", sa.String(64), nullable=nullable),
        sa.Column("chain", sa.String(64), nullable=nullable),
        sa.Column("chip", sa.String(64), nullable=nullable),
    )


def _tables() -> dict[str, tuple[Any, ...]]:
    return {
        "sealpod_launches": (
            sa.Column("launch_id", sa.String(36), primary_key=True),
            sa.Column("policy", sa.BigInteger, nullable=False),
            sa.Column("sealed_keys", sa.LargeBinary(255), nullable=False),
            *_platform(nullable=False),
            sa.Column("created_at", sa.Float(53), nullable=False),
            sa.Column("expires_at", sa.Float(53), nullable=False),
        ),
        "sealpod_connections": (
            sa.Column("client_id", sa.String(36), primary_key=True),
            *_platform(nullable=True),
            sa.Column("created_at", sa.Float(53), nullable=False),
            sa.Column("messages", sa.BigInteger, nullable=False),
        ),
        "sealpod_audit": (
            sa.Column("seq", _BIG, primary_key=True, autoincrement=False),
            sa.Column("hash", sa.String(64), nullable=False),
            sa.Column("record", _LONG, nullable=False),
        ),
        "sealpod_audit_head": (
            sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("seq", sa.BigInteger, nullable=False),
            sa.Column("hash", sa.String(64), nullable=False),
        ),
    }
