# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import UsageError
from sealpod.measure.vcpu import SIGNATURES, named, signature


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("EPYC EPYC-v1 EPYC-v2 EPYC-IBPB EPYC-v3 EPYC-v4", 0x800F12),
        ("EPYC-Rome EPYC-Rome-v1 EPYC-Rome-v2 EPYC-Rome-v3", 0x830F10),
        ("EPYC-Milan EPYC-Milan-v1 EPYC-Milan-v2", 0xA00F11),
        ("EPYC-Genoa EPYC-Genoa-v1", 0xA10F10),
        ("EPYC-Turin", 0xB00F00),
    ],
)
def test_signatures_of_the_types(names: str, expected: int) -> None:
    for name in names.split():
        assert named(name) == expected


def test_there_are_no_other_types() -> None:
    assert len(SIGNATURES) == 16


@given(st.integers(0, 0x10E), st.integers(0, 0xFF), st.integers(0, 0xF))
def test_a_signature_reads_back(family: int, model: int, stepping: int) -> None:
    value = signature(family, model, stepping)
    base = value >> 8 & 0xF
    assert base + (value >> 20 & 0xFF) * (base == 0xF) == family
    assert (value >> 16 & 0xF) << 4 | value >> 4 & 0xF == model
    assert value & 0xF == stepping


@pytest.mark.parametrize("name", ["epyc", "EPYC-v5", "", "host"])
def test_a_type_nobody_knows(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        named(name)
    assert caught.value.code == "measure.vcpu"
    assert "EPYC-Milan-v2" in caught.value.remedy
