# SPDX-License-Identifier: Apache-2.0
"""What a vCPU type is to the launch digest: the signature that stands in RDX when the vCPU starts.

The signature is CPUID Fn0000_0001_EAX (AMD publication 25481). Types are QEMU's CPU models, not processors:
``EPYC-v4`` on a Milan host has EPYC's signature. With ``-cpu host`` it is the host's own.
"""

from __future__ import annotations

from typing import Final

from sealpod.errors import UsageError

SIGNATURE_MASK: Final = (1 << 64) - 1
"""RDX has 64 bits; CPUID fills the lower 32."""
_BASE_FAMILY: Final = 0xF
"""Families above are this one and an extension."""


def signature(family: int, model: int, stepping: int) -> int:
    """The signature of a display family, model and stepping.

    >>> hex(signature(25, 1, 1))
    '0xa00f11'
    """
    base, extension = min(family, _BASE_FAMILY), max(family - _BASE_FAMILY, 0) & 0xFF
    fields = ((extension, 20), (model >> 4 & 0xF, 16), (base, 8), (model & 0xF, 4), (stepping & 0xF, 0))
    return sum(value << shift for value, shift in fields)


_EPYC: Final = signature(23, 1, 2)
_ROME: Final = signature(23, 49, 0)
_MILAN: Final = signature(25, 1, 1)
_GENOA: Final = signature(25, 17, 0)
_TURIN: Final = signature(26, 0, 0)

SIGNATURES: Final[dict[str, int]] = {
    "EPYC": _EPYC,
    "EPYC-v1": _EPYC,
    "EPYC-v2": _EPYC,
    "EPYC-IBPB": _EPYC,
    "EPYC-v3": _EPYC,
    "EPYC-v4": _EPYC,
    "EPYC-Rome": _ROME,
    "EPYC-Rome-v1": _ROME,
    "EPYC-Rome-v2": _ROME,
    "EPYC-Rome-v3": _ROME,
    "EPYC-Milan": _MILAN,
    "EPYC-Milan-v1": _MILAN,
    "EPYC-Milan-v2": _MILAN,
    "EPYC-Genoa": _GENOA,
    "EPYC-Genoa-v1": _GENOA,
    "EPYC-Turin": _TURIN,
}
"""QEMU's CPU models, unversioned names being its aliases; in the order in which they are listed to users."""


def named(name: str) -> int:
    """The signature of a type.

    :raise UsageError: no such type; names are case-sensitive, as QEMU's are.
    """
    try:
        return SIGNATURES[name]
    except KeyError:
        raise UsageError(
            f"unknown vCPU type {name!r}",
            code="measure.vcpu",
            remedy=f"one of {', '.join(SIGNATURES)}",
        ) from None
