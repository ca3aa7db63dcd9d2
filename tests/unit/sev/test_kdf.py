# SPDX-License-Identifier: Apache-2.0
"""Vectors: tests/vectors/LEDGER.md, "sev"."""

from __future__ import annotations

import hmac

from hypothesis import given
from hypothesis import strategies as st

from sealpod.sev.kdf import CEK_LABEL, KEK_LABEL, KIK_LABEL, MASTER_LABEL, aes_ctr, hmac_sha256, kdf


def test_master_kek_and_kik_of_zeros() -> None:
    master = kdf(bytes(16), 16, MASTER_LABEL, bytes(16))
    assert master.hex() == "ab4d269fcc62bedb4511d56c386ce706"
    assert kdf(master, 16, KEK_LABEL).hex() == "b6abfbfb75ea1ea74ed8750b8afdb973"
    assert kdf(master, 16, KIK_LABEL).hex() == "53b524bf5669a363f365c864acba8572"


def test_two_blocks() -> None:
    assert kdf(bytes(32), 56, CEK_LABEL).hex() == (
        "ddcbefd40680bebe51d41e9ffaac77881c89bab68b7ed06bd8f1c3f8e87c052a"
        "c6bb8fb55f4071c9941a2b0a70eaa39035049b2d7ef18022"
    )


def test_mac_and_wrapping_of_zeros() -> None:
    mac = hmac_sha256(bytes(16), bytes(4))
    assert mac.hex() == "aa7855e13839dd767cd5da7c1ff5036540c9264b7a803029315e55375287b4af"
    kek, kik = (
        bytes.fromhex(key) for key in ("b6abfbfb75ea1ea74ed8750b8afdb973", "53b524bf5669a363f365c864acba8572")
    )
    wrapped = aes_ctr(kek, bytes(16), bytes(32))
    assert wrapped.hex() == "2137bc7f9bb8bd7c3e55a576a15d3454b3856b8ba27afadf46dcfee9f02c02c4"
    assert (
        hmac_sha256(kik, wrapped).hex() == "3176c0752738bd9d5e86689534020f528c088f16238826b000b327dee6aeed7d"
    )


@given(st.binary(max_size=48), st.integers(1, 100), st.binary(max_size=8), st.binary(max_size=16))
def test_the_length_is_part_of_every_block(key: bytes, size: int, label: bytes, context: bytes) -> None:
    out = kdf(key, size, label, context)
    assert len(out) == size
    first = b"\1\0\0\0" + label + b"\0" + context + (8 * size).to_bytes(4, "little")
    assert out[:32] == hmac.digest(key, first, "sha256")[:size]
