# SPDX-License-Identifier: Apache-2.0
"""The deterministic set, step by step (LEDGER, "sev"): what other tests of this folder check at its end.

An implementation that differs somewhere sees here where.
"""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from sealpod.sev.cert import Algorithm, Certificate, Usage, make
from sealpod.sev.kdf import KEK_LABEL, KIK_LABEL, MASTER_LABEL, aes_ctr, hmac_sha256, kdf
from sealpod.sev.measurement import FirmwareVersion
from sealpod.sev.policy import Policy
from sealpod.wire import secrettable

Keys = dict[str, ec.EllipticCurvePrivateKey]

SCALARS = {
    "pdh": "8bf57c43fe7b1f0d8d2b49beb86568dd48512d10d51107c147fa87e4f7a5d0197401af860fb959cf2a15db2c79260c41",
    "godh": "391406b7b2bbec8e15001bd2ad366b8727d2f403143e1ee7"
    "adde1a41b0718a7596a9f39069ff32295b9634b7bb6af07d",
    "oca": "fa6c7e7a7c406a1bd9878f2452032dbc0a3995ab6a7a13352382e4f9f5702a88851dee161a0271af42cd4285ec9486ab",
    "cek": "9689f61e991181322d645008bd8bc5d4adecfb0ad6d7424d34839fe65cc28c99504e5f6cf725e9659e92fca4a88cc27c",
    "pek": "617e15acfa441bc4624e474a12c937cdaf3d49fc019c971272fece0aa4aeb2178dda71813d39821af0c083d37ce8904f",
}
POINTS = {
    "pdh": (
        "fa617266f2b27a6811fdf81ccc51ec6a7090f66e969825e52eff5faa92fe5b234e707ca15a63819030c23401054db0f5",
        "c0a5e192c4aa7f81099ffec7472952094ad8ed79ee039ad2805d419ef9d8bc29238cc754f242b473a72662d201f08ef5",
    ),
    "godh": (
        "72a731c2695e84a130f4900cca2595f53af48fdec1d344130f9f067914885eba1e81a7afc6f202b9afbf8afd35244ba3",
        "5f9b14ab874d74a2b88ee16317020f1ed3e8a17e5d56df3d5e6d3ab3168715cd1b29a0dfbb6fb7555dee74095a8eb323",
    ),
}
SHARED = "208e69956466c81dfa28684e0cdb97e73ec4e607be15dc2e349c34c0a3bf41b0db01639d4f66997589bf9b6343e842cb"
MASTER = "9b8fe98e8098302fdc4834207802f741"
KEK, KIK = "7dc7a2d3b3d85bd827ca208a40dd711c", "1ca62b22afa3234567ecd87ee49aa3b1"
WRAP_TK = "2270551fb4617277ba058d5495f690eade1aa5553a2e0741b778405191445903"
WRAP_MAC = "576602154db4080817efc856935d3b7a4408aefbaa218e4185daaf3a863b32ee"
TEK, TIK = bytes(range(0x10, 0x20)), bytes(range(0x20, 0x30))
NONCE, WRAP_IV, MNONCE = (bytes(range(start, start + 16)) for start in (0x30, 0x40, 0x50))
DIGEST = "ea88f39107826c5212419052c8053f643444d09b9bf56870adc7ae4e359be899"
TABLE = (
    "42f5741edd71664d963eef4287ff173b3300000062a1f5e67fd65047a67c5d065f2a9910"
    "1f0000006b6579736574206461746100000000000000000000000000"
)


@pytest.mark.parametrize("name", SCALARS)
def test_private_keys(name: str, ec_keys: Keys) -> None:
    assert f"{ec_keys[name].private_numbers().private_value:096x}" == SCALARS[name]


@pytest.mark.parametrize("name", POINTS)
def test_public_keys_and_where_a_certificate_has_them(name: str, ec_keys: Keys) -> None:
    point = ec_keys[name].public_key().public_numbers()
    assert (f"{point.x:096x}", f"{point.y:096x}") == POINTS[name]
    data = make(ec_keys[name].public_key(), Usage.PDH, Algorithm.ECDH_SHA256).encode()
    x, y = data[0x14 : 0x14 + 48][::-1].hex(), data[0x5C : 0x5C + 48][::-1].hex()
    assert (x, y) == POINTS[name]
    assert data[:20].hex() == "0100000000000000031000000300000002000000"


def test_both_sides_agree_on_z(ec_keys: Keys, certificates: dict[str, Certificate]) -> None:
    owner = ec_keys["godh"].exchange(ec.ECDH(), certificates["pdh"].public_key())
    firmware = ec_keys["pdh"].exchange(ec.ECDH(), ec_keys["godh"].public_key())
    assert owner.hex() == firmware.hex() == SHARED


def test_key_schedule() -> None:
    master = kdf(bytes.fromhex(SHARED), 16, MASTER_LABEL, NONCE)
    assert master.hex() == MASTER
    assert (kdf(master, 16, KEK_LABEL).hex(), kdf(master, 16, KIK_LABEL).hex()) == (KEK, KIK)


def test_wrapping() -> None:
    wrapped = aes_ctr(bytes.fromhex(KEK), WRAP_IV, TEK + TIK)
    assert wrapped.hex() == WRAP_TK
    assert hmac_sha256(bytes.fromhex(KIK), wrapped).hex() == WRAP_MAC


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (0x00000003, "f19823c14acdfbb8914e451756cce2665abd80f761a711b93ff21f9f58eea123"),
        (0x18000003, "f74dddbbadb297a27b0d27603d5d23599a570aa1f00e571f770ea512ebd63119"),
    ],
)
def test_policy_mac(policy: int, expected: str) -> None:
    assert hmac_sha256(TIK, Policy(policy).encode()).hex() == expected


def test_measurement_input() -> None:
    digest = hashlib.sha256(b"sev-test-vector firmware").digest()
    assert digest.hex() == DIGEST
    message = b"\x04" + FirmwareVersion(0, 24, 15).encode() + Policy(3).encode() + digest + MNONCE
    assert message.hex() == "0400180f03000000" + DIGEST + "505152535455565758595a5b5c5d5e5f"
    measure = hmac_sha256(TIK, message)
    reply = "qUByd8i7ix7fScv3O7h5WgC7tfwPfgNKpCd+z8OyYeBQUVJTVFVWV1hZWltcXV5f"
    assert base64.b64encode(measure + MNONCE).decode() == reply


def test_secret_table() -> None:
    assert secrettable.encode([(secrettable.OFFLINE_BUNDLE_GUID, b"keyset data")]).hex() == TABLE


def test_limits_of_a_table_in_a_packet() -> None:
    """16344 bytes fill the 16 KiB a packet carries; one byte less is padded to the same."""
    for size in (16343, 16344):
        table = secrettable.encode([(secrettable.OFFLINE_BUNDLE_GUID, bytes(size))])
        assert len(table) == 16384
    assert len(secrettable.encode([(secrettable.OFFLINE_BUNDLE_GUID, bytes(16345))])) == 16400
