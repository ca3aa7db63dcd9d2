# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError, UsageError
from sealpod.sev.measurement import FirmwareVersion
from sealpod.sev.policy import Policy, PolicyFlag

words = st.integers(0, 0xFFFF_FFFF)


@given(words)
def test_every_word_round_trips_verbatim(value: int) -> None:
    policy = Policy.from_int(value)
    assert policy.encode() == value.to_bytes(4, "little")
    assert Policy.decode(policy.encode()) == policy
    assert Policy.parse(str(value)) == Policy.parse(hex(value)) == policy
    assert policy.flags | policy.reserved | policy.min_api[0] << 16 | policy.min_api[1] << 24 == value
    assert f"0x{value:08x}" in policy.describe()


def test_upstream_bug_version_is_bytes_not_nibbles() -> None:
    """A widely used library reads major and minor from bits 20-23 and 16-19 and drops bits 24-31."""
    assert Policy(0x18000003).min_api == (0, 24)
    assert Policy(0x17000003).encode().hex() == "03000017"
    assert Policy(0x00170003).min_api == (0x17, 0)
    assert Policy(0x00170003).encode().hex() == "03001700"


def test_flags_have_the_firmwares_bits() -> None:
    assert {flag.name: flag.value for flag in PolicyFlag} == {
        "NODBG": 1,
        "NOKS": 2,
        "ES": 4,
        "NOSEND": 8,
        "DOMAIN": 16,
        "SEV": 32,
    }
    assert Policy(0x43).flags == PolicyFlag.NODBG | PolicyFlag.NOKS
    assert Policy(0x43).reserved == 0x40


def test_describe() -> None:
    assert Policy(0).describe() == "0x00000000 (no restriction)"
    assert Policy(0x18000043).describe() == (
        "0x18000043 (NODBG, NOKS, firmware API 0.24 or later, reserved bits 0x0040)"
    )


@pytest.mark.parametrize("value", [-1, 1 << 32, 1 << 70])
def test_a_word_has_32_bits(value: int) -> None:
    with pytest.raises(DecodeError):
        Policy.from_int(value)


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "+1", " 1", "1_0", "0b1", "0x", "4294967296", "0x100000000", "9" * 5000, "\u0661"]
)
def test_text_that_is_no_policy(text: str) -> None:
    with pytest.raises(UsageError):
        Policy.parse(text)


@given(st.binary(max_size=8).filter(lambda data: len(data) != 4))
def test_only_four_bytes_are_a_policy(data: bytes) -> None:
    with pytest.raises(DecodeError):
        Policy.decode(data)


@pytest.mark.parametrize(
    ("version", "value", "met"),
    [
        ((0, 24), 0x18000000, True),
        ((0, 23), 0x18000000, False),
        ((1, 0), 0x18000000, True),
        ((0, 99), 1 << 16, False),
    ],
)
def test_minimum_version(version: tuple[int, int], value: int, met: bool) -> None:
    assert FirmwareVersion(*version, 0).satisfies(Policy(value)) is met


@pytest.mark.parametrize("parts", [(257, 0, 0), (0, 256, 0), (0, 0, -1)])
def test_version_numbers_are_not_truncated_to_bytes(parts: tuple[int, int, int]) -> None:
    with pytest.raises(DecodeError):
        FirmwareVersion(*parts)
