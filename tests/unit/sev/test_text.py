# SPDX-License-Identifier: Apache-2.0
"""Vectors: tests/vectors/LEDGER.md, "sev"."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sealpod.errors import DecodeError
from sealpod.sev.cert import Algorithm, Certificate, Signature, Usage, make
from sealpod.sev.certfile import decode_certificates
from sealpod.sev.text import body_hash, describe


def test_lines_sevctl_prints_for_a_naples_platform(amd: Path) -> None:
    names = ("pdh", "pek", "oca", "cek", "ask", "ark")
    data = b"".join((amd / "naples" / f"{name}.cert").read_bytes() for name in names)
    lines = [describe(certificate) for certificate in decode_certificates(data)]
    assert lines[0] == "PDH EP384 D256 dbec0cf343b140dc7ded571935e8d0ec8059fd1610ddb3c79eb177e7cd3878a2"
    assert lines[1].startswith("PEK EP384 E256 8d55d63b")
    assert lines[5] == "ARK R2048 R256 8efddcaaf84990cf6354d93637be270220cf15797332b3d918c3b8cc77349f31"
    assert [line.split()[0] for line in lines] == ["PDH", "PEK", "OCA", "CEK", "ASK", "ARK"]


def test_later_authorities_hash_with_sha384(amd: Path) -> None:
    (ark,) = decode_certificates((amd / "milan" / "ark.cert").read_bytes())
    usage, key, algorithm, digest = describe(ark).split()
    assert (usage, key, algorithm) == ("ARK", "R4096", "R384")
    assert digest == hashlib.sha384(ark.body).hexdigest()


@pytest.mark.parametrize(
    ("algorithm", "key", "expected"),
    [
        (Algorithm.ECDSA_SHA256, ec.generate_private_key(ec.SECP256R1()).public_key(), "EP256 E256"),
        (Algorithm.ECDSA_SHA384, ec.generate_private_key(ec.SECP384R1()).public_key(), "EP384 E384"),
        (Algorithm.ECDH_SHA256, ec.generate_private_key(ec.SECP384R1()).public_key(), "EP384 D256"),
        (Algorithm.ECDH_SHA384, ec.generate_private_key(ec.SECP256R1()).public_key(), "EP256 D384"),
        (Algorithm.RSA_SHA256, rsa.generate_private_key(65537, 2048).public_key(), "R2048 R256"),
        (Algorithm.RSA_SHA384, rsa.generate_private_key(65537, 2048).public_key(), "R2048 R384"),
    ],
)
def test_every_algorithm(algorithm: Algorithm, key: Any, expected: str) -> None:
    certificate = make(key, Usage.OCA, algorithm)
    name = f"sha{algorithm.hash_bits}"
    assert describe(certificate) == f"OCA {expected} {hashlib.new(name, certificate.body).hexdigest()}"


def test_signatures_do_not_change_the_line(certificates: dict[str, Certificate]) -> None:
    unsigned = replace(certificates["pek"], signatures=(Signature(), Signature()))
    assert describe(unsigned) == describe(certificates["pek"])


def test_a_broken_certificate_is_shown_too(certificates: dict[str, Certificate]) -> None:
    assert describe(replace(certificates["pek"], pubkey=bytes(1028))).startswith("PEK ? E256 ")
    nothing = replace(certificates["pek"], algorithm=Algorithm.NONE, usage=Usage.INVALID)
    assert describe(nothing).startswith("INVALID ? ? ")
    assert len(body_hash(nothing)) == 64


def test_a_file_is_split_whatever_its_order(hierarchy: Any) -> None:
    chain = hierarchy.chain
    parts = [chain.ark, chain.pdh, chain.ask, chain.cek, chain.pek, chain.oca, chain.pdh]
    assert list(decode_certificates(b"".join(part.encode() for part in parts))) == parts


def test_what_is_no_certificate_is_named_by_its_place(hierarchy: Any) -> None:
    data = hierarchy.chain.encode()
    with pytest.raises(DecodeError, match="at byte 10000"):
        decode_certificates(data + b"rest")
    with pytest.raises(DecodeError, match="at byte 0"):
        decode_certificates(b"?")
    with pytest.raises(DecodeError, match="empty"):
        decode_certificates(b"")
    with pytest.raises(DecodeError, match="more than any chain"):
        decode_certificates(bytes(1 << 17))
    for size in range(1, len(data), 53):
        if size not in (2084, 4168, 6252, 8336, 9168):
            with pytest.raises(DecodeError):
                decode_certificates(data[:size])
