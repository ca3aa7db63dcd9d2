# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' quantities (apimachinery, ``resource.Quantity``): ``2``, ``0.5``, ``250m``, ``1e3``, ``1.5Ki``.

A sign, digits with a point anywhere among them, and one of a decimal suffix, a binary one, or an exponent.
``E`` before digits is an exponent, alone it is a suffix. Longer numbers than anybody writes are none here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Final

_FORM: Final = re.compile(
    r"(?P<number>[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40}))"
    r"(?:[eE](?P<exponent>[+-]?[0-9]{1,3})|(?P<suffix>[numkMGTPE]?|[KMGTPE]i))",
    re.ASCII,
)
_DECIMAL: Final[Mapping[str, int]] = {
    "n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18
}  # fmt: skip
_BINARY: Final = "KMGTPE"  # each 1024 times the one before


def parse_quantity(text: str) -> Fraction | None:
    """The exact amount; None when the text is no quantity."""
    match = _FORM.fullmatch(text)
    if match is None:
        return None
    number, suffix = Fraction(match["number"]), match["suffix"]
    if suffix is None:
        return number * Fraction(10) ** int(match["exponent"])
    if suffix in _DECIMAL:
        return number * Fraction(10) ** _DECIMAL[suffix]
    return number * Fraction(1024) ** (_BINARY.index(suffix[0]) + 1)
