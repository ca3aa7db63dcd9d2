# SPDX-License-Identifier: Apache-2.0
"""The report: a statement, signed by the key broker, of what a launch was (simple-kbs' ``report`` type).

``{"connection": "<text>", "signature": "<base64>"}``; the text is compact JSON with simple-kbs' six fields in
its order, the signature ECDSA P-256 with SHA-256 (ASN.1 DER) over the text's bytes.

Such a statement can be shown to anybody at any time. Who asks with a nonce or an audience gets these in the
text too, with the time it was made and the time it ends. A report on a software platform says so, always.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sealpod.errors import DecodeError, OperationError
from sealpod.kbs.core.encoding import decode_base64, encode_base64
from sealpod.kbs.core.evidence import Evidence
from sealpod.kbs.core.records import MODEL_ROOT, Platform, StoredReportKey
from sealpod.secret import SecretBytes

MAX_KEY = 4096
"""Bytes of a PKCS #8 key; one of P-256 has some 140."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """What ties a report to one reader and moment; times in whole seconds since the epoch."""

    nonce: str
    audience: str
    issued_at: int
    expires_at: int


def report_text(evidence: Evidence, platform: Platform | None, freshness: Freshness | None) -> str:
    """What is signed."""
    fields: dict[str, object] = {
        "policy": evidence.policy,
        "fw_api_major": evidence.api_major,
        "fw_api_minor": evidence.api_minor,
        "fw_build_id": evidence.build_id,
        "launch_description": evidence.description,
        "fw_digest": evidence.digest,
    }
    if platform is not None and platform.kind == MODEL_ROOT:
        fields["platform"] = MODEL_ROOT
    if freshness is not None:
        fields["nonce"], fields["audience"] = freshness.nonce, freshness.audience
        fields["issued_at"], fields["expires_at"] = freshness.issued_at, freshness.expires_at
    return _json(fields)


def signed_report(key: StoredReportKey, text: str) -> SecretBytes:
    """The payload. :raise SealpodError: the key cannot be used."""
    signature = load_report_key(key.value).sign(text.encode(), ec.ECDSA(hashes.SHA256()))
    return SecretBytes(_json({"connection": text, "signature": encode_base64(signature)}).encode())


def load_report_key(stored: SecretBytes) -> ec.EllipticCurvePrivateKey:
    """The key in its column: base64 of PKCS #8. No text of it enters the error.

    :raise DecodeError, OperationError: it is none, or not on P-256.
    """
    try:
        raw = decode_base64(stored.reveal().decode(), limit=MAX_KEY)
        key = serialization.load_der_private_key(raw, password=None)
    except (DecodeError, ValueError, TypeError, UnsupportedAlgorithm):
        raise _unusable() from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _unusable()
    return key


def _unusable() -> OperationError:
    return OperationError(
        "Failed to load keypair",
        code="report-key.malformed",
        remedy="the broker's owner sets the report key again; it is base64 of a PKCS #8 key on P-256",
    )


def _json(value: dict[str, object]) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
