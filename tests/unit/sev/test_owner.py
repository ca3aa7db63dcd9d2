# SPDX-License-Identifier: Apache-2.0
"""A platform owner's OCA: made, written, read back, and signing a platform's PEK."""

from __future__ import annotations

import re
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from hypothesis import given
from hypothesis import strategies as st
from sevkit import vector_certificates, vector_key, vector_keys

from sealpod.errors import DecodeError, SealpodError, VerificationError
from sealpod.secret import SecretBytes
from sealpod.sev.cert import Algorithm, Signature, Usage, make, sign
from sealpod.sev.owner import decode_oca, decode_owner, encode_key, make_owner

KEY = vector_key("oca")
OWNER = make_owner(KEY)


def test_the_certificate_is_what_firmware_and_sevctl_make() -> None:
    oca = OWNER.oca
    assert (oca.usage, oca.algorithm, oca.api) == (Usage.OCA, Algorithm.ECDSA_SHA256, (0, 0))
    assert [slot.usage for slot in oca.signatures] == [Usage.OCA, Usage.INVALID]
    oca.require_canonical()
    oca.verify_signed_by(KEY.public_key(), Usage.OCA, Algorithm.ECDSA_SHA256)
    assert decode_oca(oca.encode() + b"more") == oca


def test_the_key_file_is_traditional_der() -> None:
    data = encode_key(KEY).reveal()
    assert data[:7] == bytes.fromhex("3081a402010104")  # SEQUENCE, version 1, OCTET STRING: ECPrivateKey
    assert load_der_private_key(data, None).private_numbers() == KEY.private_numbers()  # type: ignore[union-attr]


@pytest.mark.parametrize("encoding", [Encoding.DER, Encoding.PEM])
@pytest.mark.parametrize("form", [PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8])
def test_other_forms_of_the_key_are_read(encoding: Encoding, form: PrivateFormat) -> None:
    data = KEY.private_bytes(encoding, form, NoEncryption())
    assert decode_owner(OWNER.oca, SecretBytes(data)).key.private_numbers() == KEY.private_numbers()


def key_file(key: Any, encryption: Any = None) -> SecretBytes:
    return SecretBytes(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, encryption or NoEncryption()))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (SecretBytes(b""), "owner.key"),
        (SecretBytes(b"0" * 10_000), "owner.key"),
        (SecretBytes(b"-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"), "owner.key"),
        (key_file(KEY, BestAvailableEncryption(b"password")), "owner.key"),
        (key_file(rsa.generate_private_key(65537, 2048)), "owner.key"),
        (key_file(vector_key("pek")), "owner.key-other"),
        (key_file(ec.generate_private_key(ec.SECP256R1())), "owner.key-other"),
    ],
)
def test_another_key_is_refused(data: SecretBytes, code: str) -> None:
    with pytest.raises(SealpodError) as caught:
        decode_owner(OWNER.oca, data)
    assert caught.value.code == code
    assert isinstance(caught.value, VerificationError if code == "owner.key-other" else DecodeError)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_key_or_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_owner(OWNER.oca, SecretBytes(data))


def test_another_certificate_is_refused() -> None:
    certificates = vector_certificates(vector_keys())
    with pytest.raises(DecodeError):
        decode_oca(certificates["pek"].encode())
    with pytest.raises(DecodeError):
        decode_oca(OWNER.oca.encode()[:-1])
    unsigned = make(KEY.public_key(), Usage.OCA, Algorithm.ECDSA_SHA256)
    agreeing = make(KEY.public_key(), Usage.OCA, Algorithm.ECDH_SHA256)
    forged = sign(unsigned, vector_key("pek"), Usage.OCA, Algorithm.ECDSA_SHA256, 0)
    for oca in (unsigned, agreeing, forged):
        with pytest.raises(VerificationError):
            decode_oca(oca.encode())


def test_signing_a_pek() -> None:
    pek = vector_key("pek")
    csr = make(pek.public_key(), Usage.PEK, Algorithm.ECDSA_SHA256, api=(0, 24))
    signed = OWNER.sign_pek(csr)
    assert signed.body == csr.body
    signed.verify_signed_by(KEY.public_key(), Usage.OCA, Algorithm.ECDSA_SHA256)
    assert signed.signatures[1] == Signature()
    with_cek = sign(csr, vector_key("cek"), Usage.CEK, Algorithm.ECDSA_SHA256, 0)
    assert [slot.usage for slot in OWNER.sign_pek(with_cek).signatures] == [Usage.CEK, Usage.OCA]


def test_what_cannot_be_signed() -> None:
    certificates = vector_certificates(vector_keys())
    for other in (certificates["pek"], certificates["pdh"]):  # both slots taken; not a PEK
        with pytest.raises(DecodeError) as caught:
            OWNER.sign_pek(other)
        assert caught.value.code == "owner.csr"


def test_nothing_shows_the_key() -> None:
    assert re.fullmatch(r"<sealpod\.sev\.owner\.Owner object at 0x[0-9a-f]+>", repr(OWNER))
    assert repr(encode_key(KEY)) == "SecretBytes(167 bytes)"
