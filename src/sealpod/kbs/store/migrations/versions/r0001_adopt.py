# SPDX-License-Identifier: Apache-2.0
"""simple-kbs' six tables, left as they are where they exist, and names for policies.

Where they do not exist they are made as simple-kbs' own scripts make them on each database, so that
simple-kbs, and statements written for it, work on them too. Going back leaves them alone.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql, postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_JSON = sa.Text().with_variant(mysql.LONGTEXT(collation="utf8mb4_bin"), "mysql", "mariadb")
_FLAG = sa.SmallInteger().with_variant(mysql.TINYINT(display_width=1), "mysql", "mariadb")
# PostgreSQL's script has BIGINT for all but the keysets; simple-kbs reads 64 bits.
_POLID = sa.Integer().with_variant(postgresql.BIGINT(), "postgresql")
_STAMP = sa.DateTime()

# utf8 is three bytes a character: an index on 1024 of them just fits InnoDB. Binary order, so that ids
# differ by case as they do on the other databases.
_OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8",
    "mysql_collate": "utf8_bin",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8",
    "mariadb_collate": "utf8_bin",
}
_OURS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
    "mariadb_collate": "utf8mb4_bin",
}


def _number() -> sa.Column[int]:
    return sa.Column("id", sa.Integer, primary_key=True, autoincrement=True)


def upgrade() -> None:
    there = set(sa.inspect(op.get_bind()).get_table_names())
    for name, columns in _tables().items():
        if name not in there:
            numbered = name != "conn_bundle"
            op.create_table(name, *columns, **(_OPTIONS | {"sqlite_autoincrement": numbered}))
    if "sealpod_policy_names" not in there:
        op.create_table(
            "sealpod_policy_names",
            sa.Column("name", sa.String(255), primary_key=True),
            sa.Column("polid", sa.Integer, nullable=False, unique=True),
            **_OURS,
        )


def downgrade() -> None:
    if "sealpod_policy_names" in sa.inspect(op.get_bind()).get_table_names():
        op.drop_table("sealpod_policy_names")


def _tables() -> dict[str, tuple[Any, ...]]:
    text = sa.String
    return {
        "conn_bundle": (
            sa.Column("id", text(512), primary_key=True),
            sa.Column("sev_version", sa.Integer),
            sa.Column("policy", sa.Integer),
            sa.Column("fw_api_major", sa.Integer),
            sa.Column("fw_api_minor", sa.Integer),
            sa.Column("fw_build_id", sa.Integer),
            sa.Column("launch_description", text(512)),
            sa.Column("fw_digest", text(512)),
            sa.Column("symkey", text(512)),
            sa.Column("create_date", _STAMP),
            sa.Column("delete_date", _STAMP),
        ),
        "policy": (
            _number(),
            sa.Column("allowed_digests", _JSON),
            sa.Column("allowed_policies", _JSON),
            sa.Column("min_fw_api_major", sa.Integer),
            sa.Column("min_fw_api_minor", sa.Integer),
            sa.Column("allowed_build_ids", _JSON),
            sa.Column("create_date", _STAMP),
            sa.Column("delete_date", _STAMP),
            sa.Column("valid", _FLAG),
        ),
        "keysets": (
            _number(),
            sa.Column("keysetid", text(50), nullable=False, unique=True),
            sa.Column("kskeys", _JSON),
            sa.Column("polid", sa.Integer),
        ),
        "secrets": (
            _number(),
            sa.Column("secret_id", text(1024), unique=True),
            sa.Column("secret", text(1024)),
            sa.Column("polid", _POLID),
        ),
        "report_keypair": (
            _number(),
            sa.Column("key_id", text(1024), unique=True),
            sa.Column("keypair", text(1024)),
            sa.Column("polid", _POLID),
        ),
        "resources": (
            _number(),
            sa.Column("resource_id", text(1024), unique=True),
            sa.Column("resource_type", text(1024)),
            sa.Column("resource_path", text(1024)),
            sa.Column("polid", _POLID),
        ),
    }
