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
from sealpod.sev.status import Status

DSA = Algorithm.ECDSA_SHA256


def status(certificate: Certificate, issuer: Certificate | CaCertificate) -> Status:
    with pytest.raises(FirmwareError) as caught:
        verify_as_firmware(certificate, issuer)
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
        verify_as_firmware(certificate, issuer)


def test_a_real_chain(amd: Path) -> None:
    pdh, pek, oca, cek = (
        Certificate.decode((amd / "naples" / f"{name}.cert").read_bytes())
        for name in ("pdh", "pek", "oca", "cek")
    )
    ask, _ = CaCertificate.decode((amd / "naples" / "ask.cert").read_bytes())
    for certificate, issuer in ((cek, ask), (oca, oca), (pek, oca), (pek, cek), (pdh, pek)):
        verify_as_firmware(certificate, issuer)


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


def test_every_usage_but_the_empty_one_has_issuers() -> None:
    assert set(ISSUERS) == set(Usage) - {Usage.INVALID}
