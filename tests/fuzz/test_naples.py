# SPDX-License-Identifier: Apache-2.0
"""All 255 other values of each byte of a real chain: none of them verifies."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealpod.errors import DecodeError, VerificationError
from sealpod.sev.chain import Chain, verify_chain
from sealpod.sev.roots import AMD_ARKS


def verifies(data: bytes) -> bool:
    try:
        verify_chain(Chain.decode(data), AMD_ARKS)
    except (DecodeError, VerificationError):
        return False
    return True


def test_each_single_byte_change_of_the_naples_chain_is_refused(amd: Path, fuzz_seconds: float) -> None:
    if not fuzz_seconds:
        pytest.skip("2.5 million chains: `make fuzz`; unit/sev/test_chain.py changes each byte once")
    names = ("pdh", "pek", "oca", "cek", "ask", "ark")
    data = bytearray(b"".join((amd / "naples" / f"{name}.cert").read_bytes() for name in names))
    assert verifies(bytes(data))
    for offset, original in enumerate(data):
        for change in range(1, 256):
            data[offset] = original ^ change
            assert not verifies(bytes(data)), f"byte {offset} as {data[offset]:#04x} is not noticed"
        data[offset] = original
