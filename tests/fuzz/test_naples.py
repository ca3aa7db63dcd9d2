# SPDX-License-Identifier: Apache-2.0
"""Other values of the bytes of a real chain: none of them verifies."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from sealpod.errors import DecodeError, VerificationError
from sealpod.sev.chain import Chain, verify_chain
from sealpod.sev.roots import AMD_ARKS

SHORT = 100
"""Changes in the ordinary suite."""


def verifies(data: bytes) -> bool:
    try:
        verify_chain(Chain.decode(data), AMD_ARKS)
    except (DecodeError, VerificationError):
        return False
    return True


@pytest.fixture
def chain(amd: Path) -> bytearray:
    names = ("pdh", "pek", "oca", "cek", "ask", "ark")
    data = bytearray(b"".join((amd / "naples" / f"{name}.cert").read_bytes() for name in names))
    assert verifies(bytes(data))
    return data


def refuse(data: bytearray, offset: int, change: int) -> None:
    original = data[offset]
    data[offset] = original ^ change
    assert not verifies(bytes(data)), f"byte {offset} as {data[offset]:#04x} is not noticed"
    data[offset] = original


def test_changes_of_the_naples_chain_are_refused(chain: bytearray, fuzz_seconds: float) -> None:
    """Any of them, for the time there is; unit/sev/test_chain.py changes each byte once."""
    number = random.Random(None if fuzz_seconds else 1)
    end, tried = time.monotonic() + fuzz_seconds, 0
    while tried < SHORT or time.monotonic() < end:
        refuse(chain, number.randrange(len(chain)), number.randrange(1, 256))
        tried += 1
    print(f"naples: {tried} changes")


def test_each_single_byte_change_of_the_naples_chain_is_refused(
    chain: bytearray, pytestconfig: pytest.Config
) -> None:
    if not pytestconfig.getoption("--fuzz-all", False):
        pytest.skip("2.5 million chains: `make fuzz FUZZ_ALL=1`; unit/sev/test_chain.py changes each byte")
    for offset in range(len(chain)):
        for change in range(1, 256):
            refuse(chain, offset, change)
