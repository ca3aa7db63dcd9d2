# SPDX-License-Identifier: Apache-2.0
"""The key owner's report keys: P-256 keys the broker signs statements about launches with.

Kept as simple-kbs keeps them, base64 of PKCS #8 in DER, sealed like secrets. What readers of reports need is
the public half, which every function here gives.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)
from sqlalchemy import Row, Select, delete, select

from sealpod.errors import NotFoundError, UsageError, VerificationError
from sealpod.kbs.core.encoding import encode_base64
from sealpod.kbs.core.sealing import is_sealed
from sealpod.kbs.store import columns, schema
from sealpod.kbs.store.admin import check_identifier, exact, exact_row, policy_label, policy_number, put_row
from sealpod.kbs.store.database import Database
from sealpod.kbs.store.engine import reading
from sealpod.secret import SecretBytes

TABLE: Final = "report_keypair"
MAX_ID: Final = 1024


@dataclass(frozen=True, slots=True)
class ReportKeyInfo:
    """A report key without its private half. ``public`` is PEM, None when the row holds no such key."""

    id: str
    public: str | None
    policy: str | None
    sealed: bool


def set_report_key(db: Database, key_id: str, key: SecretBytes, *, policy: str | None) -> ReportKeyInfo:
    """Make or replace a report key from PKCS #8 in PEM or DER.

    :raise UsageError: not a P-256 private key, or an id that does not fit. :raise NotFoundError: no policy.
    """
    check_identifier("report-key", key_id, limit=MAX_ID)
    return _write(db, key_id, _load(key), policy)


def generate_report_key(db: Database, key_id: str, *, policy: str | None) -> ReportKeyInfo:
    """Make a report key that nobody has seen, or replace one by it. :raise SealpodError: as when set."""
    check_identifier("report-key", key_id, limit=MAX_ID)
    return _write(db, key_id, ec.generate_private_key(ec.SECP256R1()), policy)


def list_report_keys(db: Database) -> tuple[ReportKeyInfo, ...]:
    """All report keys by id."""
    with reading(db.engine) as connection:
        rows = connection.execute(_select().order_by(schema.report_keypair.c.key_id)).all()
    return tuple(_info(db, row) for row in rows if row.key_id is not None)


def show_report_key(db: Database, key_id: str) -> ReportKeyInfo:
    """:raise NotFoundError: there is none."""
    with reading(db.engine) as connection:
        row = exact(connection, _select(), schema.report_keypair.c.key_id, key_id)
    if row is None:
        raise _unknown(key_id)
    return _info(db, row)


def delete_report_key(db: Database, key_id: str) -> None:
    """:raise NotFoundError: there is none."""
    with db.writing() as connection:
        row = exact_row(connection, schema.report_keypair, "key_id", key_id)
        if row is None:
            raise _unknown(key_id)
        connection.execute(delete(schema.report_keypair).where(schema.report_keypair.c.id == row))


def _write(db: Database, key_id: str, key: ec.EllipticCurvePrivateKey, policy: str | None) -> ReportKeyInfo:
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    text = SecretBytes(encode_base64(der).encode("ascii"))
    written = db.sealer.seal_text(TABLE, key_id, text, width=schema.MAX_SECRET_TEXT)
    with db.writing() as connection:
        row = {"keypair": written, "polid": policy_number(connection, policy)}
        put_row(connection, schema.report_keypair, "key_id", key_id, row)
    return show_report_key(db, key_id)


def _load(raw: SecretBytes) -> ec.EllipticCurvePrivateKey:
    value = raw.reveal()
    load = load_pem_private_key if value.lstrip().startswith(b"-----BEGIN") else load_der_private_key
    try:
        key = load(value, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _not_a_key() from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _not_a_key()
    return key


def _not_a_key() -> UsageError:
    return UsageError(
        "not a P-256 private key in PKCS #8",
        code="report-key.syntax",
        remedy="let `sealpod kbs report-key set ID --generate` make one, or give PEM or DER",
    )


def _select() -> Select[Any]:
    table = schema.report_keypair
    return select(table.c.key_id, table.c.keypair, policy_label(table.c.polid))


def _info(db: Database, row: Row[Any]) -> ReportKeyInfo:
    stored = columns.words(row.keypair)
    try:
        text = db.sealer.open_text(TABLE, str(row.key_id), stored).reveal()
        public = _load(SecretBytes(b64decode(text, validate=True))).public_key()
    except (VerificationError, UsageError, binascii.Error, ValueError):
        return ReportKeyInfo(str(row.key_id), None, row.policy, is_sealed(stored))
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")
    return ReportKeyInfo(str(row.key_id), pem, row.policy, is_sealed(stored))


def _unknown(key_id: str) -> NotFoundError:
    return NotFoundError(
        f"no report key {key_id!r}",
        code="report-key.unknown",
        remedy="set it with `sealpod kbs report-key set`, or see `sealpod kbs report-key list`",
    )
