# SPDX-License-Identifier: Apache-2.0
"""The tables.

The first six are simple-kbs', with its names and its **order of columns**: key owners write positional
``REPLACE INTO secrets VALUES (...)`` statements, which must keep working. They have no foreign keys there
and none here. Tables named ``sealpod_*`` are ours: upstream's policies have numbers only and ours have names
too, and launches in progress live here rather than in a process's memory.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects import mysql

MAX_KEYSET_ID: Final = 50
MAX_SECRET_ID: Final = 1024
MAX_SECRET_TEXT: Final = 1024
"""Characters of base64: 768 bytes of secret."""
MAX_SYMKEY: Final = 512
MAX_NAME: Final = 255

# MySQL's plain TEXT ends at 64 KiB.
_LONG: Final = Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")

metadata: Final = MetaData()

conn_bundle: Final = Table(
    "conn_bundle",
    metadata,
    Column("id", String(512), primary_key=True),
    Column("sev_version", Integer),
    Column("policy", Integer),
    Column("fw_api_major", Integer),
    Column("fw_api_minor", Integer),
    Column("fw_build_id", Integer),
    Column("launch_description", String(512)),
    Column("fw_digest", String(512)),
    Column("symkey", String(512)),
    Column("create_date", DateTime),
    Column("delete_date", DateTime),
)
"""One row per connection; ``id`` is the client id. ``policy`` is signed here and unsigned on the wire."""

keysets: Final = Table(
    "keysets",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("keysetid", String(MAX_KEYSET_ID), nullable=False, unique=True),
    Column("kskeys", _LONG),
    Column("polid", Integer),
    sqlite_autoincrement=True,
)
"""``kskeys`` is a JSON array of secret ids."""

policy: Final = Table(
    "policy",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("allowed_digests", _LONG),
    Column("allowed_policies", _LONG),
    Column("min_fw_api_major", Integer),
    Column("min_fw_api_minor", Integer),
    Column("allowed_build_ids", _LONG),
    Column("create_date", DateTime),
    Column("delete_date", DateTime),
    Column("valid", SmallInteger),
    sqlite_autoincrement=True,
)
"""Lists are JSON arrays as text; a row counts only while ``valid`` is 1."""

secrets: Final = Table(
    "secrets",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("secret_id", String(MAX_SECRET_ID), unique=True),
    Column("secret", String(MAX_SECRET_TEXT)),
    Column("polid", Integer),
    sqlite_autoincrement=True,
)
"""``secret`` is base64 text."""

report_keypair: Final = Table(
    "report_keypair",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("key_id", String(1024), unique=True),
    Column("keypair", String(1024)),
    Column("polid", Integer),
    sqlite_autoincrement=True,
)

resources: Final = Table(
    "resources",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("resource_id", String(1024), unique=True),
    Column("resource_type", String(1024)),
    Column("resource_path", String(1024)),
    Column("polid", Integer),
    sqlite_autoincrement=True,
)

policy_names: Final = Table(
    "sealpod_policy_names",
    metadata,
    Column("name", String(MAX_NAME), primary_key=True),
    Column("polid", Integer, nullable=False, unique=True),
)

launches: Final = Table(
    "sealpod_launches",
    metadata,
    Column("launch_id", String(36), primary_key=True),
    Column("policy", BigInteger, nullable=False),
    Column("sealed_keys", LargeBinary(255), nullable=False),
    Column("root", String(255), nullable=False),
    Column("ark", String(64), nullable=False),
    Column("chain", String(64), nullable=False),
    Column("chip", String(64), nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("expires_at", Float(53), nullable=False, index=True),
)
"""Launches between GetBundle and GetSecret. Times are seconds since the epoch."""

connections: Final = Table(
    "sealpod_connections",
    metadata,
    Column("client_id", String(36), primary_key=True),
    Column("root", String(255)),
    Column("ark", String(64)),
    Column("chain", String(64)),
    Column("chip", String(64)),
    Column("created_at", Float(53), nullable=False, index=True),
    Column("messages", BigInteger, nullable=False),
)
"""What simple-kbs' ``conn_bundle`` has no column for: the platform, when it began, and replies so far. A
connection that simple-kbs made gets its row, without a platform, when it is first used."""

audit: Final = Table(
    "sealpod_audit",
    metadata,
    # SQLite's own row number is what it calls INTEGER; another type would need an index beside it.
    Column("seq", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=False),
    Column("hash", String(64), nullable=False),
    Column("record", _LONG, nullable=False),
)
"""Decisions, chained as :mod:`sealpod.kbs.core.audit` says."""

audit_head: Final = Table(
    "sealpod_audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
)
"""One row: number and hash of the newest decision. Who appends holds it locked until the commit."""
