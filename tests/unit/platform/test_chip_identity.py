# SPDX-License-Identifier: Apache-2.0
"""Chip record and sealed identity: what is signed by whom, and that a changed byte is never accepted."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError
from sealpod.platform.model.chip import Chip, cek_certificate
from sealpod.platform.model.identity import MAX_SEALED, Identity, make_identity, seal, unseal
from sealpod.secret import SecretBytes
from sealpod.sev.ca import CaCertificate
from sealpod.sev.cert import Algorithm, Certificate, Usage
from sealpod.sev.chain import Chain, verify_chain


@pytest.fixture(scope="module")
def identity(chip: Chip) -> Identity:
    return make_identity(chip, random.Random("identity").randbytes)


@pytest.fixture(scope="module")
def sealed(chip: Chip, identity: Identity) -> bytes:
    return seal(identity, chip, iv=bytes(range(16)))


def test_the_whole_chain_verifies_up_to_the_model_ark(chip: Chip, identity: Identity) -> None:
    links = (identity.pdh.certificate, identity.pek.certificate, identity.oca.certificate)
    data = b"".join(link.encode() for link in links) + chip.cek + chip.ask + chip.ark
    assert len(data) == 11536
    chain = Chain.decode(data)
    assert verify_chain(chain, {chain.ark.sha256: "model"}).root == "model"


def test_signature_slots_are_those_of_hardware(chip: Chip, identity: Identity) -> None:
    def slots(certificate: Certificate) -> list[tuple[int, int]]:
        return [(slot.usage, slot.algorithm) for slot in certificate.signatures]

    empty = (Usage.INVALID, Algorithm.NONE)
    assert slots(Certificate.decode(chip.cek)) == [(0x13, 0x101), empty]
    assert slots(identity.oca.certificate) == [(0x1001, 0x002), empty]
    assert slots(identity.pek.certificate) == [(0x1001, 0x002), (0x1004, 0x002)]
    assert slots(identity.pdh.certificate) == [(0x1002, 0x002), empty]
    assert slots(cek_certificate(chip.cek_key())) == [empty, empty]
    assert {pair.certificate.api for pair in (identity.oca, identity.pek, identity.pdh)} == {(0, 24)}


def test_ca_certificates_have_the_usages_and_ids_of_amds(chip: Chip) -> None:
    ark, ask = CaCertificate.decode(chip.ark)[0], CaCertificate.decode(chip.ask)[0]
    assert (ark.usage, ask.usage) == (0x0000, 0x0013)
    assert ark.certifying_id == ark.key_id == ask.certifying_id != ask.key_id
    assert len(chip.ark) == len(chip.ask) == 1600


def test_identifier_is_the_chips_and_stable(chip: Chip) -> None:
    other = Chip(SecretBytes(bytes(32)), chip.cek, chip.ask, chip.ark)
    assert len(chip.identifier()) == 64
    assert chip.identifier() == Chip.decode(chip.encode()).identifier() != other.identifier()


def test_chip_record_round_trip(chip: Chip) -> None:
    assert Chip.decode(chip.encode()) == chip
    assert len(chip.encode()) == 5364


def test_chip_repr_hides_the_secret(chip: Chip) -> None:
    assert chip.secret.reveal().hex() not in repr(chip)
    assert str(chip.secret.reveal()) not in repr(chip)


@given(st.data())
def test_any_changed_bit_of_a_chip_record_is_refused(chip: Chip, data: st.DataObject) -> None:
    record = bytearray(chip.encode())
    record[data.draw(st.integers(0, len(record) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(DecodeError):
        Chip.decode(bytes(record))


@given(st.binary(max_size=6000))
def test_any_bytes_give_a_chip_or_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        Chip.decode(data)


def test_sealed_identity_round_trip(chip: Chip, identity: Identity, sealed: bytes) -> None:
    again = unseal(sealed, chip)
    assert len(sealed) <= MAX_SEALED
    for name in ("oca", "pek", "pdh"):
        before, after = getattr(identity, name), getattr(again, name)
        assert after.certificate == before.certificate
        assert after.key.private_numbers() == before.key.private_numbers()


@given(st.data())
def test_any_changed_bit_of_a_sealed_identity_is_refused(
    chip: Chip, sealed: bytes, data: st.DataObject
) -> None:
    changed = bytearray(sealed)
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(DecodeError):
        unseal(bytes(changed), chip)


@given(st.data())
def test_every_truncation_of_a_sealed_identity_is_refused(
    chip: Chip, sealed: bytes, data: st.DataObject
) -> None:
    with pytest.raises(DecodeError):
        unseal(sealed[: data.draw(st.integers(0, len(sealed) - 1))], chip)


def test_an_identity_belongs_to_one_chip(chip: Chip, sealed: bytes) -> None:
    other = Chip(SecretBytes(bytes(32)), chip.cek, chip.ask, chip.ark)
    with pytest.raises(DecodeError, match="this chip"):
        unseal(sealed, other)
