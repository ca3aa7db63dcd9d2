# SPDX-License-Identifier: Apache-2.0
"""Ownership of the platform: PEK_CSR and PEK_CERT_IMPORT by AMD's rules, and what a failed save leaves."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from sealpod.platform.model.commands import Command
from sealpod.platform.model.firmware import Firmware
from sealpod.platform.model.identity import unseal
from sealpod.sev.cert import Algorithm, Certificate, Signature, Usage, make, sign
from sealpod.sev.status import Status

C, S = Command, Status
KEY = ec.derive_private_key(7, ec.SECP384R1())
OTHER = ec.derive_private_key(11, ec.SECP384R1())
ECDSA = Algorithm.ECDSA_SHA256
SLOT_USAGE, SLOT_ALGORITHM = 0x414, 0x418
EMPTY = Signature()


def signed(certificate: Certificate, slot: int = 0, key: ec.EllipticCurvePrivateKey = KEY) -> Certificate:
    return sign(certificate, key, Usage.OCA, ECDSA, slot)


OCA = signed(make(KEY.public_key(), Usage.OCA, ECDSA))


def csr(ready: Any) -> Certificate:
    return Certificate.decode(ready.ok(C.PEK_CSR, length=2084).parts["pek"])


def take(ready: Any, pek: bytes, oca: bytes = OCA.encode()) -> Status:
    return Status(ready(C.PEK_CERT_IMPORT, {"pek": pek, "oca": oca}).status)


def identity(ready: Any) -> bytes:
    parts = ready.ok(C.PDH_CERT_EXPORT, pdh_length=2084, chain_length=6252).parts
    return bytes(parts["pdh"] + parts["chain"])


def patched(certificate: Certificate, offset: int, number: int) -> bytes:
    data = bytearray(certificate.encode())
    struct.pack_into("<I", data, offset, number)
    return bytes(data)


@pytest.mark.parametrize("slot", [0, 1])
def test_the_endorsement_takes_the_slot_the_owner_left(ready: Any, firmware: Firmware, slot: int) -> None:
    assert take(ready, signed(csr(ready), slot).encode()) is S.SUCCESS
    pek = firmware.identity.pek.certificate
    assert pek.signatures[slot].usage == Usage.OCA
    assert pek.signatures[1 - slot].usage == Usage.CEK
    pek.verify_signed_by(firmware.chip.cek_key().public_key(), Usage.CEK, ECDSA)
    firmware.identity.pdh.certificate.verify_signed_by(pek.public_key(), Usage.PEK, ECDSA)
    assert firmware.identity.oca.key is None


def test_a_pek_without_a_free_slot_is_refused(ready: Any) -> None:
    assert take(ready, signed(signed(csr(ready), 0), 1).encode()) is S.INVALID_CERTIFICATE


@pytest.mark.parametrize(("offset", "number"), [(SLOT_USAGE, 0x1000), (SLOT_ALGORITHM, 0)])
def test_a_half_empty_slot_is_a_bad_signature(ready: Any, offset: int, number: int) -> None:
    assert take(ready, patched(signed(csr(ready)), offset, number)) is S.BAD_SIGNATURE
    assert take(ready, signed(csr(ready)).encode(), patched(OCA, offset, number)) is S.BAD_SIGNATURE


def test_what_wins_over_what(ready: Any) -> None:
    pek = signed(csr(ready))
    other_algorithm = replace(pek.signatures[0], algorithm=Algorithm.ECDSA_SHA384)
    wrong = replace(pek, signatures=(other_algorithm, EMPTY))
    assert take(ready, wrong.encode()) is S.INVALID_CERTIFICATE, "no slot of the signer's kind"
    garbled = replace(pek.signatures[0], raw=bytes(512))
    assert take(ready, replace(pek, signatures=(garbled, EMPTY)).encode()) is S.BAD_SIGNATURE
    version_2 = patched(pek, 0, 2)
    assert take(ready, version_2) is S.BAD_SIGNATURE, "the signature covers the version"
    stranger = signed(make(OTHER.public_key(), Usage.PEK, ECDSA))
    assert take(ready, stranger.encode()) is S.INVALID_CERTIFICATE, "another platform's PEK"
    off_curve = replace(OCA, pubkey=OCA.pubkey[:4] + bytes(1024))
    assert take(ready, pek.encode(), off_curve.encode()) is S.INVALID_CERTIFICATE
    wrong_usage = sign(make(KEY.public_key(), Usage.PEK, ECDSA), KEY, Usage.PEK, ECDSA, 0)
    assert take(ready, pek.encode(), wrong_usage.encode()) is S.INVALID_CERTIFICATE
    assert ready.ok(C.PLATFORM_STATUS).values["owned"] == 0


def test_every_changed_byte_of_what_is_signed_is_refused(ready: Any) -> None:
    pek = signed(csr(ready)).encode()
    for offset in range(0, 1044, 29):
        changed = bytearray(pek)
        changed[offset] ^= 1
        assert take(ready, bytes(changed)) is not S.SUCCESS, offset
    assert take(ready, pek) is S.SUCCESS


def test_what_cannot_be_saved_has_not_happened(ready: Any, store: Any, firmware: Firmware) -> None:
    before, sealed = identity(ready), store.data
    pek = signed(csr(ready)).encode()

    def full(_: bytes) -> None:
        raise OSError(28, "No space left on device", "/state/identity")

    store.save = full
    for command, parts in (
        (C.PEK_GEN, {}),
        (C.PDH_GEN, {}),
        (C.PEK_CERT_IMPORT, {"pek": pek, "oca": OCA.encode()}),
    ):
        assert ready(command, parts).status == S.HWERROR_PLATFORM
        assert identity(ready) == before
        assert store.data == sealed
    assert ready.ok(C.PLATFORM_STATUS).values["owned"] == 0


def test_a_change_by_another_process_is_not_undone(ready: Any, store: Any, firmware: Firmware) -> None:
    """Two processes on one store: one takes the platform, the other then rotates the PDH."""
    second = Firmware(firmware.chip, store, firmware.rng)
    second.init(flags=0)
    assert take(ready, signed(csr(ready)).encode()) is S.SUCCESS
    from sealpod.platform.model import managing

    managing.pdh_gen(second)
    assert second.identity.owned
    assert unseal(store.data, firmware.chip).owned
    assert second.identity.oca.certificate == OCA


def test_an_owned_identity_survives_a_restart_without_the_owners_key(
    ready: Any, store: Any, firmware: Firmware
) -> None:
    assert take(ready, signed(csr(ready)).encode()) is S.SUCCESS
    before = identity(ready)
    ready.ok(C.SHUTDOWN)
    assert ready.ok(C.PLATFORM_STATUS).values["owned"] == 0
    ready.ok(C.INIT, flags=1)
    assert identity(ready) == before
    assert ready.ok(C.PLATFORM_STATUS).values["owned"] == 1
    assert KEY.private_numbers().private_value.to_bytes(48, "big") not in store.data
    ready.ok(C.PEK_GEN)
    assert ready.ok(C.PLATFORM_STATUS).values["owned"] == 0
