# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from sealpod.errors import DecodeError, VerificationError
from sealpod.sev.snp import der
from sealpod.sev.snp.roots import AMD_SNP_ARKS, AMD_SNP_ASKS
from sealpod.sev.snp.x509 import MAX_FILE_SIZE, X509, decode_x509

GENERATIONS = ("milan", "genoa", "turin")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(VerificationError) as caught:
        call()
    return caught.value.code


@pytest.mark.parametrize("generation", GENERATIONS)
def test_amds_authorities_are_the_pinned_ones(generation: str, amd_snp: Path) -> None:
    (ark,) = decode_x509((amd_snp / generation / "ark.pem").read_bytes())
    (ask,) = decode_x509((amd_snp / generation / "ask.pem").read_bytes())
    ark.verify_signed_by(ark, now=NOW)
    ask.verify_signed_by(ark, now=NOW)
    label = f"AMD {generation.capitalize()}"
    assert (AMD_SNP_ARKS[ark.sha256], AMD_SNP_ASKS[ask.sha256]) == (label, label)
    assert (ark.common_name, ask.common_name) == (
        f"ARK-{generation.capitalize()}",
        f"SEV-{generation.capitalize()}",
    )
    assert code_of(lambda: ark.verify_signed_by(ask, now=NOW)) == "snp.issuer"


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_reader_agrees_with_cryptographys(generation: str, amd_snp: Path) -> None:
    for name in ("ark", "ask"):
        data = (amd_snp / generation / f"{name}.pem").read_bytes()
        other = x509.load_pem_x509_certificate(data)
        (own,) = decode_x509(data)
        assert own.encoded == other.public_bytes(Encoding.DER)
        assert own.signed == other.tbs_certificate_bytes
        assert own.signature == other.signature
        assert (own.issuer, own.subject) == (other.issuer.public_bytes(), other.subject.public_bytes())
        assert (own.not_before, own.not_after) == (other.not_valid_before_utc, other.not_valid_after_utc)
        assert own.public_key == other.public_key()


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_roots_of_snp_and_sev_hold_the_same_keys(generation: str, amd_snp: Path) -> None:
    from sealpod.sev.ca import CaCertificate

    for name in ("ark", "ask"):
        (snp,) = decode_x509((amd_snp / generation / f"{name}.pem").read_bytes())
        sev, _ = CaCertificate.decode((amd_snp / generation / f"{name}.cert").read_bytes())
        assert snp.public_key == sev.public_key()


def test_a_chips_certificate_has_serial_zero_and_is_read_without_a_warning(amd_snp: Path) -> None:
    """cryptography's own reader warns of it and announces that it will refuse it."""
    vcek = X509.decode((amd_snp / "milan" / "vcek.der").read_bytes())
    (ask,) = decode_x509((amd_snp / "milan" / "ask.pem").read_bytes())
    vcek.verify_signed_by(ask, now=NOW)
    assert vcek.common_name == "SEV-VCEK"
    assert not vcek.is_authority
    assert isinstance(vcek.public_key, ec.EllipticCurvePublicKey)


def test_pem_files(maker: Any) -> None:
    chain = maker.chain()
    pem = b"".join(
        b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(one.encoded) + b"-----END CERTIFICATE-----\n"
        for one in (chain.ask, chain.ark)
    )
    assert decode_x509(pem) == decode_x509(pem.replace(b"\n", b"\r\n")) == (chain.ask, chain.ark)
    assert decode_x509(b"\n" + pem.rstrip()) == (chain.ask, chain.ark)
    for broken in (
        pem + b"rest",
        pem[:-40],
        pem.replace(b"BEGIN CERTIFICATE", b"BEGIN RSA KEY", 1),
        b"-----BEGIN CERTIFICATE-----\n=AAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN",
        b"",
        bytes(MAX_FILE_SIZE + 1),
    ):
        with pytest.raises(DecodeError):
            decode_x509(broken)


def test_every_truncation_and_continuation_is_refused(maker: Any) -> None:
    data = maker.chain().vek.certificate.encoded
    for size in range(len(data)):
        with pytest.raises(DecodeError):
            X509.decode(data[:size])
    for more in (data + b"\0", data + data):
        with pytest.raises(DecodeError):
            X509.decode(more)


def test_no_bit_of_a_certificate_is_free(maker: Any) -> None:
    """Each flip is malformed or does not verify; the signature algorithm stands twice for that reason."""
    chain = maker.chain()
    data = chain.vek.certificate.encoded
    for bit in range(0, 8 * len(data), 3):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((DecodeError, VerificationError)):
            X509.decode(bytes(changed)).verify_signed_by(chain.ask, now=NOW)


def test_validity(maker: Any) -> None:
    ark = maker.chain().ark
    for year in (2019, 2046):
        when = datetime(year, 6, 1, tzinfo=UTC)
        assert code_of(lambda w=when: ark.verify_signed_by(ark, now=w)) == "snp.expired"  # type: ignore[misc]
    late = maker.certificate("A", "A", maker.root_key, maker.root_key, authority=True, years=(2020, 2055))
    assert X509.decode(late).not_after == datetime(2055, 1, 1, tzinfo=UTC)


def test_only_authorities_sign(maker: Any) -> None:
    root, middle = maker.root_key, maker.middle_key
    plain = X509.decode(maker.certificate("A", "A", root, root, authority=False))
    child = X509.decode(maker.certificate("B", "A", middle, root, authority=True))
    assert code_of(lambda: child.verify_signed_by(plain, now=NOW)) == "snp.authority"
    other = X509.decode(maker.certificate("A", "A", middle, middle, authority=True))
    assert code_of(lambda: child.verify_signed_by(other, now=NOW)) == "snp.signature"


def built(signer: rsa.RSAPrivateKey, scheme: Any, digest: Any) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A")])
    return (
        x509.CertificateBuilder(name, name, signer.public_key(), 1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2040, 1, 1, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(signer, digest, rsa_padding=scheme)
        .public_bytes(Encoding.DER)
    )


def test_only_amds_signature_scheme(maker: Any) -> None:
    key = maker.root_key
    with pytest.raises(DecodeError, match="RSASSA-PSS"):
        X509.decode(built(key, padding.PKCS1v15(), SHA384()))
    for scheme, digest in (
        (padding.PSS(mgf=padding.MGF1(SHA256()), salt_length=32), SHA256()),
        (padding.PSS(mgf=padding.MGF1(SHA384()), salt_length=20), SHA384()),
    ):
        weak = X509.decode(built(key, scheme, digest))
        assert code_of(lambda w=weak: w.verify_signed_by(w, now=NOW)) == "snp.signature"  # type: ignore[misc]
    small = rsa.generate_private_key(65537, 2048)
    short = X509.decode(built(small, padding.PSS(mgf=padding.MGF1(SHA384()), salt_length=48), SHA384()))
    assert code_of(lambda: short.verify_signed_by(short, now=NOW)) == "snp.authority"


def test_an_unknown_critical_extension_is_refused(maker: Any) -> None:
    data = maker.certificate(
        "A", "A", maker.root_key, maker.root_key, authority=True, extensions={"77": b"\5\0"}, critical="77"
    )
    with pytest.raises(DecodeError, match="critical"):
        X509.decode(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"\x30\x80",  # indefinite length
        b"\x30\x81\x05abcde",  # not the shortest form
        b"\x30\x82\x00\x81" + bytes(0x81),
        b"\x30\x84\x00\x00\x00\x01a",
        b"\x30\x02a",
        b"\x3f\x01a",  # a tag of several bytes
        b"\x30\x01ab",
    ],
)
def test_der_that_is_not_strict(data: bytes) -> None:
    with pytest.raises(DecodeError):
        der.only(data, der.SEQUENCE, 0x3F)


@pytest.mark.parametrize(
    "data", ["0200", "02020001", "020200ff00", "0201ff", "02020100", "0301ff", "020b" + "00" * 11]
)
def test_numbers_that_are_not_levels(data: str) -> None:
    with pytest.raises(DecodeError):
        der.small_integer(bytes.fromhex(data), 0xFF)


def test_numbers_and_identifiers() -> None:
    assert [der.small_integer(bytes.fromhex(data), 0xFF) for data in ("020100", "02017f", "020200ff")] == [
        0,
        127,
        255,
    ]
    assert der.oid("1.3.6.1.4.1.3704.1.3.8").hex() == "2b060104019c78010308"
