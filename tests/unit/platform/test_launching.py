# SPDX-License-Identifier: Apache-2.0
"""A launch against a guest owner's session, and what tampering with any part of it gets.

The error numbers are those a throwaway model of the firmware gave when the interface facts were collected,
and those of AMD's published firmware source.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import random
import struct
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from sealpod.errors import VerificationError
from sealpod.platform.model.chip import P384_ORDER, Chip, cek_certificate
from sealpod.platform.model.commands import Command
from sealpod.platform.model.firmware import Firmware
from sealpod.platform.model.identity import KeyPair, make_identity
from sealpod.secret import SecretBytes
from sealpod.sev.cert import Algorithm, Usage, make
from sealpod.sev.kdf import CEK_LABEL, kdf
from sealpod.sev.measurement import FirmwareVersion, Measurement, VerifiedLaunch, verify_measurement
from sealpod.sev.packet import pack
from sealpod.sev.policy import Policy
from sealpod.sev.session import Session, TransportKeys
from sealpod.sev.status import Status

C, S = Command, Status

VERSION = FirmwareVersion(0, 24, 15)
FLASH = random.Random("flash").randbytes(4096)
HASHES = random.Random("hashes").randbytes(176)
HASHES_GPA = 0x8000
SECRET_GPA = 0x9000
SECRET = b"the guest owner's secret, padded".ljust(48, b"\0")
IV = bytes(range(16))


def measure(mailbox: Any, session: Session, policy: int = 0) -> tuple[int, VerifiedLaunch]:
    """A measured guest of ``session``, verified as its owner does."""
    mailbox.memory.write(0, FLASH)
    mailbox.memory.write(HASHES_GPA, HASHES)
    handle = mailbox.start(session, policy=policy)
    mailbox.ok(C.LAUNCH_UPDATE_DATA, handle=handle, paddr=0, length=len(FLASH))
    mailbox.ok(C.LAUNCH_UPDATE_DATA, handle=handle, paddr=HASHES_GPA, length=len(HASHES))
    data = mailbox.ok(C.LAUNCH_MEASURE, handle=handle, length=48).parts["measurement"]
    digest = hashlib.sha256(FLASH + HASHES).digest()
    verified = verify_measurement(session.keys, Policy(policy), VERSION, digest, Measurement.decode(data))
    return handle, verified


def inject(mailbox: Any, handle: int, header: bytes, data: bytes) -> Any:
    parts = {"header": header, "data": data}
    return mailbox(C.LAUNCH_SECRET, parts, handle=handle, paddr=SECRET_GPA, guest_length=len(data))


def start(mailbox: Any, owner: Session, policy: int = 0, **changes: bytes) -> Status:
    """Status of LAUNCH_START with the owner's parts, some of them changed."""
    parts = {"godh": owner.godh.encode(), "session": owner.blob} | changes
    return Status(mailbox(C.LAUNCH_START, parts, policy=policy, handle=0).status)


def flip(data: bytes, offset: int) -> bytes:
    changed = bytearray(data)
    changed[offset] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("policy", [0, 0x3, 0x18000003])
def test_a_launch_measures_decrypts_in_place_and_forgets_its_keys(
    ready: Any, firmware: Firmware, policy: int
) -> None:
    handle, verified = measure(ready, ready.session(policy), policy)
    packet = verified.pack(SECRET, iv=IV)
    assert inject(ready, handle, packet.header, packet.data).status == 0
    assert ready.memory.read(SECRET_GPA, len(SECRET)) == SECRET
    assert ready.memory.read(SECRET_GPA - 16, 16) == bytes(16)
    assert ready.memory.read(SECRET_GPA + len(SECRET), 16) == bytes(16)
    ready.ok(C.LAUNCH_FINISH, handle=handle)
    guest = firmware.guests.get(handle)
    assert guest.keys is None
    assert guest.measure == b""


def test_a_second_secret_may_follow(ready: Any) -> None:
    handle, verified = measure(ready, ready.session())
    for text in (b"one".ljust(16), b"two".ljust(16)):
        packet = verified.pack(text, iv=IV)
        assert inject(ready, handle, packet.header, packet.data).status == 0
        assert ready.memory.read(SECRET_GPA, 16) == text


def test_a_launch_without_a_session_is_measured_with_zero_keys(ready: Any) -> None:
    ready.memory.write(0, FLASH)
    ready.start()
    ready.ok(C.LAUNCH_UPDATE_DATA, handle=1, paddr=0, length=len(FLASH))
    data = ready.ok(C.LAUNCH_MEASURE, handle=1, length=48).parts["measurement"]
    zero = TransportKeys(SecretBytes(bytes(16)), SecretBytes(bytes(16)))
    digest = hashlib.sha256(FLASH).digest()
    verify_measurement(zero, Policy(0), VERSION, digest, Measurement.decode(data))


def test_a_length_probe_changes_nothing(ready: Any, firmware: Firmware) -> None:
    session = ready.session()
    ready.memory.write(0, FLASH)
    handle = ready.start(session)
    ready.ok(C.LAUNCH_UPDATE_DATA, handle=handle, paddr=0, length=2048)
    assert ready(C.LAUNCH_MEASURE, handle=handle, length=0).status == Status.INVALID_LENGTH
    ready.ok(C.LAUNCH_UPDATE_DATA, handle=handle, paddr=2048, length=2048)
    data = ready.ok(C.LAUNCH_MEASURE, handle=handle, length=48).parts["measurement"]
    digest = hashlib.sha256(FLASH).digest()
    verify_measurement(session.keys, Policy(0), VERSION, digest, Measurement.decode(data))


def test_a_refused_update_is_not_measured(ready: Any) -> None:
    session = ready.session()
    handle = ready.start(session)
    assert ready(C.LAUNCH_UPDATE_DATA, handle=handle, paddr=8, length=16).status
    assert ready(C.LAUNCH_UPDATE_DATA, handle=handle, paddr=1 << 40, length=16).status

    def broken(gpa: int, size: int) -> bytes:
        raise OSError(5, "Input/output error")

    ready.memory.read, working = broken, ready.memory.read
    failed = ready(C.LAUNCH_UPDATE_DATA, handle=handle, paddr=0, length=16)
    assert failed.status == Status.HWERROR_PLATFORM
    ready.memory.read = working
    data = ready.ok(C.LAUNCH_MEASURE, handle=handle, length=48).parts["measurement"]
    empty = hashlib.sha256().digest()
    verify_measurement(session.keys, Policy(0), VERSION, empty, Measurement.decode(data))


def test_one_changed_byte_of_the_guest_shows_in_the_measurement(ready: Any) -> None:
    session = ready.session()
    ready.memory.write(0, flip(FLASH, 4000))
    handle = ready.start(session)
    ready.ok(C.LAUNCH_UPDATE_DATA, handle=handle, paddr=0, length=len(FLASH))
    data = ready.ok(C.LAUNCH_MEASURE, handle=handle, length=48).parts["measurement"]
    digest = hashlib.sha256(FLASH).digest()
    with pytest.raises(VerificationError):
        verify_measurement(session.keys, Policy(0), VERSION, digest, Measurement.decode(data))


def test_each_launch_has_its_own_nonce(ready: Any) -> None:
    nonces = set()
    for asid in range(1, 5):
        handle = ready.start(asid=asid)
        data = ready.ok(C.LAUNCH_MEASURE, handle=handle, length=48).parts["measurement"]
        nonces.add(Measurement.decode(data).mnonce)
    assert len(nonces) == 4


@pytest.mark.parametrize("offset", [0, 3, 4, 19, 20, 51])
def test_a_changed_packet_header_is_refused_and_nothing_is_written(ready: Any, offset: int) -> None:
    handle, verified = measure(ready, ready.session())
    packet = verified.pack(SECRET, iv=IV)
    refused = inject(ready, handle, flip(packet.header, offset), packet.data)
    assert refused.status == Status.BAD_MEASUREMENT
    assert ready.memory.read(SECRET_GPA, len(SECRET)) == bytes(len(SECRET))


@pytest.mark.parametrize("offset", [0, 20, 47])
def test_a_changed_ciphertext_is_refused_and_nothing_is_written(ready: Any, offset: int) -> None:
    handle, verified = measure(ready, ready.session())
    packet = verified.pack(SECRET, iv=IV)
    refused = inject(ready, handle, packet.header, flip(packet.data, offset))
    assert refused.status == Status.BAD_MEASUREMENT
    assert ready.memory.read(SECRET_GPA, len(SECRET)) == bytes(len(SECRET))


def test_a_packet_of_another_launch_is_refused(ready: Any) -> None:
    session = ready.session()
    _, verified = measure(ready, session)
    ready.ok(C.DEACTIVATE, handle=1)
    ready.ok(C.DECOMMISSION, handle=1)
    ready.ok(C.DF_FLUSH)
    handle, _ = measure(ready, session)
    packet = verified.pack(SECRET, iv=IV)
    assert inject(ready, handle, packet.header, packet.data).status == Status.BAD_MEASUREMENT


def test_compression_is_unsupported_once_the_mac_holds(ready: Any, firmware: Firmware) -> None:
    session = ready.session()
    handle, _ = measure(ready, session)
    sealed = pack(session.keys, SECRET, firmware.guests.get(handle).measure, iv=IV)
    tail = struct.pack("<I16sII", 1, IV, len(sealed.data), len(sealed.data)) + sealed.data
    tail += firmware.guests.get(handle).measure
    mac = hmac.digest(session.keys.tik.reveal(), b"\x01" + tail, "sha256")
    refused = inject(ready, handle, struct.pack("<I16s32s", 1, IV, mac), sealed.data)
    assert refused.status == Status.UNSUPPORTED


def test_the_observed_errors_of_a_session(ready: Any) -> None:
    session = ready.session()
    blob, godh = session.blob, session.godh
    assert start(ready, session, policy=1) is S.BAD_MEASUREMENT, "policy is not the MACed one"
    assert start(ready, session, session=flip(blob, 0)) is S.BAD_MEASUREMENT, "NONCE"
    assert start(ready, session, session=flip(blob, 16)) is S.BAD_MEASUREMENT, "WRAP_TK"
    assert start(ready, session, session=flip(blob, 48)) is S.BAD_MEASUREMENT, "WRAP_IV"
    assert start(ready, session, session=flip(blob, 64)) is S.BAD_MEASUREMENT, "WRAP_MAC"
    assert start(ready, session, session=flip(blob, 96)) is S.BAD_MEASUREMENT, "POLICY_MAC"
    assert start(ready, session, session=blob[:127]) is S.INVALID_LENGTH
    other = dataclasses.replace(godh, algorithm=Algorithm.ECDSA_SHA256)
    assert start(ready, session, godh=other.encode()) is S.INVALID_CERTIFICATE
    other = dataclasses.replace(godh, usage=Usage.PEK)
    assert start(ready, session, godh=other.encode()) is S.INVALID_CERTIFICATE
    off_curve = dataclasses.replace(godh, pubkey=flip(godh.pubkey, 4))
    assert start(ready, session, godh=off_curve.encode()) is S.INVALID_CERTIFICATE
    assert start(ready, session, godh=b"\x02" + godh.encode()[1:]) is S.INVALID_CERTIFICATE
    assert start(ready, session) is S.SUCCESS


def test_an_owners_key_on_another_curve_is_refused(ready: Any) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    godh = make(key.public_key(), Usage.PDH, Algorithm.ECDH_SHA256)
    assert start(ready, ready.session(), godh=godh.encode()) is S.INVALID_CERTIFICATE


@pytest.mark.parametrize(
    ("policy", "status"),
    [
        (0x1800_0003, S.SUCCESS),
        (0x1900_0003, S.POLICY_FAILURE),
        (0x0001_0003, S.POLICY_FAILURE),
        (0x0000_0040, S.POLICY_FAILURE),
        (0x0000_8000, S.POLICY_FAILURE),
        (0x0000_0004, S.UNSUPPORTED),
        (0x1900_0004, S.POLICY_FAILURE),
    ],
)
def test_what_the_policy_demands_of_the_firmware(ready: Any, policy: int, status: Status) -> None:
    assert start(ready, ready.session(policy), policy=policy) is status
    expected = 1 if status is S.SUCCESS else 0
    assert ready.ok(C.PLATFORM_STATUS).values["guest_count"] == expected
    assert ready.ok(C.PLATFORM_STATUS).values["state"] == 1 + expected


def test_a_wrong_mac_wins_over_a_policy_that_cannot_be_met(ready: Any) -> None:
    assert start(ready, ready.session(0), policy=0x1900_0040) is S.BAD_MEASUREMENT


def test_a_session_for_another_platform_is_refused(ready: Any) -> None:
    session = ready.session()
    for command in (C.SHUTDOWN, C.PLATFORM_RESET):
        ready.ok(command)
    ready.ok(C.INIT, flags=0)
    assert start(ready, session) is S.BAD_MEASUREMENT


def test_no_refusal_shows_a_key(ready: Any) -> None:
    session = ready.session()
    handle, verified = measure(ready, session)
    packet = verified.pack(SECRET, iv=IV)
    texts = [
        ready(C.LAUNCH_START, {"godh": session.godh.encode(), "session": bytes(128)}, policy=0, handle=0),
        inject(ready, handle, packet.header, flip(packet.data, 0)),
    ]
    for response in texts:
        for key in (session.keys.tek, session.keys.tik):
            assert key.reveal().hex() not in repr(response)
            assert str(key.reveal())[2:-1] not in repr(response)


# The deterministic set of the ledger's "sev" section: private scalars by name, and what follows from them.
VECTOR_SESSION = base64.b64decode(
    "MDEyMzQ1Njc4OTo7PD0+PyJwVR+0YXJ3ugWNVJX2kOreGqVVOi4HQbd4QFGRRFkDQEFCQ0RFRkdISUpLTE1OT1dmAhVNtAgI"
    "F+/IVpNdO3pECK77qiGOQYXarzqGOzLu8ZgjwUrN+7iRTkUXVsziZlq9gPdhpxG5P/Ifn1juoSM="
)
VECTOR_REPLY = base64.b64decode("qUByd8i7ix7fScv3O7h5WgC7tfwPfgNKpCd+z8OyYeBQUVJTVFVWV1hZWltcXV5f")
VECTOR_HEADER = bytes.fromhex(
    "00000000606162636465666768696a6b6c6d6e6ff077748c3a921c28744533a2874ad7f365886072215a669372ca570fa97b806d"
)
VECTOR_PAYLOAD = bytes.fromhex(
    "00d68818a520329dadb26fc9daf1cb89830798e72f5fff8d62cfc4bd16e7d74f"
    "e3aae15b11da76f33855ddaad81a2af7a363fbdb5139ce60d4089e50b4c8a07c"
)
VECTOR_TABLE = bytes.fromhex(
    "42f5741edd71664d963eef4287ff173b3300000062a1f5e67fd65047a67c5d06"
    "5f2a99101f0000006b6579736574206461746100000000000000000000000000"
)


def vector_key(name: str) -> ec.EllipticCurvePrivateKey:
    hashed = hashlib.sha384(f"sev-test-vector {name}".encode()).digest()
    return ec.derive_private_key(int.from_bytes(hashed, "big") % (P384_ORDER - 1) + 1, ec.SECP384R1())


def test_a_published_launch_byte_for_byte(ready: Any, firmware: Firmware) -> None:
    pdh = KeyPair(vector_key("pdh"), firmware.identity.pdh.certificate)
    firmware._identity = dataclasses.replace(firmware.identity, pdh=pdh)
    firmware.rng = lambda size: bytes(range(0x50, 0x50 + size))
    godh = make(vector_key("godh").public_key(), Usage.PDH, Algorithm.ECDH_SHA256).encode()
    assert hashlib.sha256(godh).hexdigest().startswith("588186d22add16a1")
    parts = {"godh": godh, "session": VECTOR_SESSION}
    handle = ready.ok(C.LAUNCH_START, parts, policy=3, handle=0).values["handle"]
    ready.ok(C.ACTIVATE, handle=handle, asid=1)
    # The vector's 24 bytes cannot be measured in blocks of 16, so they are put in past the command.
    firmware.guests.get(handle).launch_digest.update(b"sev-test-vector firmware")
    measured = ready.ok(C.LAUNCH_MEASURE, handle=handle, length=48)
    assert measured.parts["measurement"] == VECTOR_REPLY
    assert inject(ready, handle, VECTOR_HEADER, VECTOR_PAYLOAD).status == 0
    assert ready.memory.read(SECRET_GPA, 64) == VECTOR_TABLE


def test_a_published_report_byte_for_byte(ready: Any, firmware: Firmware) -> None:
    pek = KeyPair(vector_key("pek"), firmware.identity.pek.certificate)
    firmware._identity = dataclasses.replace(firmware.identity, pek=pek)
    handle = ready.start(policy=3)
    firmware.guests.get(handle).launch_digest.update(b"sev-test-vector firmware")
    ready.ok(C.LAUNCH_MEASURE, handle=handle, length=48)
    for finish in (False, True):
        if finish:
            ready.ok(C.LAUNCH_FINISH, handle=handle)
        answer = ready.ok(C.ATTESTATION, {"mnonce": bytes(range(16))}, handle=handle, length=208)
        report = answer.parts["report"]
        assert len(report) == 208
        assert (
            hashlib.sha256(report).hexdigest()
            == "f2fe2c9d4fed951fd83385e92410bfd5f90df4e1c1df1741199dbf86626a8949"
        )


def test_vcpus_are_measured_in_the_order_they_come(mailbox: Any) -> None:
    mailbox.ok(C.INIT, flags=1)
    mailbox.memory.write(0, FLASH)
    mailbox.memory.write(4096, random.Random("vcpus").randbytes(8192))
    session = mailbox.session(5)
    handle = mailbox.start(session, policy=5)
    mailbox.ok(C.LAUNCH_UPDATE_DATA, handle=handle, paddr=0, length=4096)
    for paddr in (8192, 4096):
        mailbox.ok(C.LAUNCH_UPDATE_VMSA, handle=handle, paddr=paddr, length=4096)
    data = mailbox.ok(C.LAUNCH_MEASURE, handle=handle, length=48).parts["measurement"]
    first, second = mailbox.memory.read(8192, 4096), mailbox.memory.read(4096, 4096)
    digest = hashlib.sha256(FLASH + first + second).digest()
    verify_measurement(session.keys, Policy(5), VERSION, digest, Measurement.decode(data))


def test_the_model_makes_the_published_certificates(chip: Chip, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deterministic set's platform, out of the model's own code: random bytes that give those keys."""
    monkeypatch.setattr(Chip, "cek_key", lambda _: vector_key("cek"))
    scalars = (vector_key(name).private_numbers().private_value for name in ("oca", "pek", "pdh"))
    material = iter([(value - 1).to_bytes(56, "little") for value in scalars])
    made = make_identity(chip, lambda size: next(material))
    expected = {
        "oca": "181282b5dd9417c6130bf2f8a704b8d763667eae741bf5b872780feb648d7d19",
        "pek": "b0f87565e8516fb60c1b580232aa633044d44c62d2cb828209875856f9c716eb",
        "pdh": "1697b64c86e11757378f6ad8c8ec618b77ee6871e9f3a077e36c1259e2c4c3b1",
        "cek": "e3926f93a60b894ee0686802632cd236367f87a11d7dff6f96a2b10ea4cd7c9b",
    }
    found = {name: getattr(made, name).certificate for name in ("oca", "pek", "pdh")}
    found["cek"] = cek_certificate(chip.cek_key())
    assert {name: hashlib.sha256(link.encode()).hexdigest() for name, link in found.items()} == expected


def test_the_published_cek_seed() -> None:
    assert kdf(bytes(32), 56, CEK_LABEL) == bytes.fromhex(
        "ddcbefd40680bebe51d41e9ffaac77881c89bab68b7ed06bd8f1c3f8e87c052a"
        "c6bb8fb55f4071c9941a2b0a70eaa39035049b2d7ef18022"
    )
