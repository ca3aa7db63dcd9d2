# SPDX-License-Identifier: Apache-2.0
"""The firmware's rule for signatures, status by status."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sealpod.errors import FirmwareError
from sealpod.sev.ca import CaCertificate
from sealpod.sev.cert import Algorithm, Certificate, Signature, Usage, make, sign
from sealpod.sev.firmwarerule import ISSUERS, verify_as_firmware
from sealpod.sev.signature import sign_bytes
from sealpod.sev.status import Status

DSA = Algorithm.ECDSA_SHA256


def verified(certificate: Certificate, issuer: Certificate | CaCertificate) -> None:
    signer = issuer if isinstance(issuer, CaCertificate) else issuer.encode()
    assert verify_as_firmware(certificate.encode(), signer) == certificate


def status(certificate: Certificate, issuer: Certificate | CaCertificate) -> Status:
    with pytest.raises(FirmwareError) as caught:
        verified(certificate, issuer)
    return Status(caught.value.status)


def test_a_good_chain(hierarchy: Any) -> None:
    chain = hierarchy.chain
    for certificate, issuer in (
        (chain.cek, chain.ask),
        (chain.oca, chain.oca),
        (chain.pek, chain.oca),
        (chain.pek, chain.cek),
        (chain.pdh, chain.pek),
    ):
        verified(certificate, issuer)


def test_a_real_chain(amd: Path) -> None:
    pdh, pek, oca, cek = (
        Certificate.decode((amd / "naples" / f"{name}.cert").read_bytes())
        for name in ("pdh", "pek", "oca", "cek")
    )
    ask, _ = CaCertificate.decode((amd / "naples" / "ask.cert").read_bytes())
    for certificate, issuer in ((cek, ask), (oca, oca), (pek, oca), (pek, cek), (pdh, pek)):
        verified(certificate, issuer)


@pytest.mark.parametrize("slot", [0, 1])
@pytest.mark.parametrize("half", [Signature(Usage.OCA, Algorithm.NONE), Signature(Usage.INVALID, DSA)])
def test_a_half_empty_slot_is_a_bad_signature(slot: int, half: Signature, hierarchy: Any) -> None:
    """Even beside a good one: the firmware looks at both before it looks for the issuer."""
    good = hierarchy.chain.oca.signatures[0]
    slots = (half, good) if slot == 0 else (good, half)
    assert status(replace(hierarchy.chain.oca, signatures=slots), hierarchy.chain.oca) is Status.BAD_SIGNATURE


def test_no_slot_of_the_issuer_is_an_invalid_certificate(hierarchy: Any) -> None:
    chain = hierarchy.chain
    assert status(chain.pdh, chain.oca) is Status.INVALID_CERTIFICATE
    assert (
        status(replace(chain.pdh, signatures=(Signature(), Signature())), chain.pek)
        is Status.INVALID_CERTIFICATE
    )
    other_hash = replace(chain.pek, algorithm=Algorithm.ECDSA_SHA384)
    assert status(chain.pdh, other_hash) is Status.INVALID_CERTIFICATE


def test_a_signature_that_fails_is_a_bad_signature(hierarchy: Any) -> None:
    chain, keys = hierarchy.chain, hierarchy.ec_keys
    forged = sign(chain.pdh, keys["godh"], Usage.PEK, DSA, 0)
    assert status(forged, chain.pek) is Status.BAD_SIGNATURE
    # One failing slot that names the issuer is enough, though the other one holds.
    beside = replace(chain.pdh, signatures=(chain.pdh.signatures[0], forged.signatures[0]))
    assert status(beside, chain.pek) is Status.BAD_SIGNATURE
    beside.verify_signed_by(chain.pek.public_key(), Usage.PEK, DSA)


def test_a_signed_key_that_is_none_is_an_invalid_certificate(hierarchy: Any) -> None:
    chain, keys = hierarchy.chain, hierarchy.ec_keys
    pubkey = bytearray(chain.pdh.pubkey)
    pubkey[4] ^= 1
    broken = sign(replace(chain.pdh, pubkey=bytes(pubkey)), keys["pek"], Usage.PEK, DSA, 0)
    assert status(broken, chain.pek) is Status.INVALID_CERTIFICATE
    assert status(chain.pdh, replace(chain.pek, pubkey=bytes(1028))) is Status.INVALID_CERTIFICATE


def test_an_issuer_signs_only_what_is_below_it(hierarchy: Any) -> None:
    keys, chain = hierarchy.ec_keys, hierarchy.chain
    body = make(keys["godh"].public_key(), Usage.PDH, Algorithm.ECDH_SHA256)
    by_oca = sign(body, keys["oca"], Usage.OCA, DSA, 0)
    assert status(by_oca, chain.oca) is Status.INVALID_CERTIFICATE
    by_pdh = sign(make(keys["godh"].public_key(), Usage.PEK, DSA), keys["pek"], Usage.PEK, DSA, 0)
    assert status(by_pdh, chain.pek) is Status.INVALID_CERTIFICATE


def test_a_signature_that_holds_does_not_make_a_certificate(hierarchy: Any) -> None:
    """Steps 1 to 3 look at bytes; only then the version is."""
    body = b"\2" + hierarchy.chain.pek.body[1:]
    signed = body + b"".join(
        Signature(Usage.OCA, DSA, sign_bytes(hierarchy.ec_keys["oca"], DSA, body)).encode() for _ in range(2)
    )
    with pytest.raises(FirmwareError, match="version 2") as caught:
        verify_as_firmware(signed, hierarchy.chain.oca.encode())
    assert caught.value.status == Status.INVALID_CERTIFICATE
    forged = signed[:-400] + b"\1" + signed[-399:]
    with pytest.raises(FirmwareError) as caught:
        verify_as_firmware(forged, hierarchy.chain.oca.encode())
    assert caught.value.status == Status.BAD_SIGNATURE


@pytest.mark.parametrize("size", [0, 1044, 2083, 2085])
def test_another_length(size: int, hierarchy: Any) -> None:
    with pytest.raises(FirmwareError) as caught:
        verify_as_firmware(bytes(size), hierarchy.chain.oca.encode())
    assert caught.value.status == Status.INVALID_LENGTH


def test_an_issuer_that_is_no_certificate(hierarchy: Any) -> None:
    for issuer in (b"", bytes(2084)):
        with pytest.raises(FirmwareError) as caught:
            verify_as_firmware(hierarchy.chain.oca.encode(), issuer)
        assert caught.value.status == Status.INVALID_CERTIFICATE


def test_amds_own_usages_are_not_for_these_certificates(hierarchy: Any) -> None:
    key = hierarchy.ec_keys["godh"]
    for usage in (Usage.ARK, Usage.ASK):
        made = sign(make(key.public_key(), usage, DSA), key, usage, DSA, 0)
        assert status(made, made) is Status.INVALID_CERTIFICATE
    assert set(ISSUERS) == {Usage.OCA, Usage.PEK, Usage.PDH, Usage.CEK}
