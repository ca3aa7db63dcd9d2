# SPDX-License-Identifier: Apache-2.0
"""The VMSA page of a guest under Coconut SVSM: all vCPUs start alike, in 32-bit protected mode.

The x87 control word stays zero although MXCSR has its reset value: so sev-snp-measure measures it, and so its
published digests are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sealpod.errors import UsageError
from sealpod.measure.vcpu import SIGNATURE_MASK
from sealpod.measure.vmsa import MXCSR_RESET, SNP_ACTIVE, Value, fill, reset_values

_FLAT: Final = (16, 0xC93, 0xFFFFFFFF, 0)
_PROTECTED: Final[dict[str, Value]] = {
    "es": _FLAT,
    "cs": (8, 0xC9B, 0xFFFFFFFF, 0),
    "ss": _FLAT,
    "ds": _FLAT,
    "fs": _FLAT,
    "cr0": 0x11,
    "sev_features": SNP_ACTIVE,
    "mxcsr": MXCSR_RESET,
}


def svsm_vmsa_page(*, eip: int, signature: int) -> bytes:
    """The page of a vCPU that starts at ``eip``, an address and not a segment's offset.

    :raise UsageError: the signature has more than 64 bits.
    """
    if not 0 <= signature <= SIGNATURE_MASK:
        raise UsageError(f"{signature:#x} is no vCPU signature", code="measure.vcpu")
    return fill(reset_values() | _PROTECTED | {"rip": eip, "rdx": signature})


def svsm_vmsa_pages(count: int, eip: int, *, signature: int) -> Iterator[bytes]:
    """The pages of ``count`` vCPUs, all equal."""
    page = svsm_vmsa_page(eip=eip, signature=signature)
    for _ in range(count):
        yield page
