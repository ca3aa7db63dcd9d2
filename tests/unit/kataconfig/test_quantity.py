# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' quantities, by the grammar that its documentation of the API gives."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.kataconfig.quantity import parse_quantity


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("2", 2),
        ("+1", 1),
        ("-1", -1),
        ("5.", 5),
        (".5", Fraction(1, 2)),
        ("007", 7),
        ("250m", Fraction(1, 4)),
        ("100u", Fraction(1, 10**4)),
        ("100n", Fraction(1, 10**7)),
        ("1k", 1000),
        ("1e3", 1000),
        ("1E3", 1000),
        ("1e+3", 1000),
        ("25e-1", Fraction(5, 2)),
        ("1E", 10**18),
        ("0.5Gi", 2**29),
        ("1Ki", 1024),
        ("1Ei", 2**60),
        ("1.5Ki", 1536),
    ],
)
def test_an_amount(text: str, amount: int | Fraction) -> None:
    assert parse_quantity(text) == amount


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "+",
        "--1",
        "1 ",
        "1K",
        "1ki",
        "1mi",
        "1e",
        "1e1.5",
        "1e3m",
        "1_0",
        "0x1",
        "1,5",
        "inf",
        "٣",
        "1e9999",
    ],
)
def test_what_is_none(text: str) -> None:
    assert parse_quantity(text) is None


@given(st.decimals(-(10**9), 10**9, places=9, allow_nan=False), st.integers(-9, 18))
def test_a_decimal_number_and_its_exponent(number: Decimal, exponent: int) -> None:
    assert parse_quantity(f"{number:f}e{exponent}") == Fraction(number) * Fraction(10) ** exponent
