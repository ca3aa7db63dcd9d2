# SPDX-License-Identifier: Apache-2.0
"""The registers a paused guest's vCPUs start with, as the page the firmware measures for each of them.

How many vCPUs there are and which signature each has is read from QEMU, so that a guest with one vCPU more
than was asked for is measured as such. The rest of a page is what KVM and QEMU set for every SEV-ES guest of
the legacy VM type. The model's vCPUs are ordinary ones: the pages are measured, not run.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sealpod.errors import OperationError
from sealpod.measure.vmsa import BSP_EIP, Fpu, vmsa_page

if TYPE_CHECKING:
    from sealpod.platform.port import PausedGuest

_ALL_REGISTERS: Final = {"command-line": "info registers -a"}
_VCPU: Final = re.compile(r"CPU#(\d+)\s(.*?)(?=CPU#\d|\Z)", re.DOTALL)
_EDX: Final = re.compile(r"\b[ER]DX=([0-9a-f]{8,16})\b")
_MAX_VCPUS: Final = 1024


async def vmsa_pages(guest: PausedGuest, reset_eip: int | None) -> list[bytes]:
    """One page of 4096 bytes per vCPU, the first one first.

    :raise OperationError: QEMU does not show the vCPUs, or the firmware has no address for the second.
    """
    signatures = await _signatures(guest)
    if len(signatures) > 1 and not reset_eip:
        raise OperationError(
            "the guest's firmware does not say where SEV-ES starts the second vCPU",
            code="platform.no-reset-address",
            remedy="use an OVMF built for SEV (AmdSev), or one vCPU",
        )
    entry = [BSP_EIP] + [reset_eip or 0] * (len(signatures) - 1)
    return [
        vmsa_page(eip=eip, signature=signature, features=0, fpu=Fpu.LEGACY)
        for eip, signature in zip(entry, signatures, strict=True)
    ]


async def _signatures(guest: PausedGuest) -> list[int]:
    """RDX of each vCPU: before the first instruction, its CPUID signature."""
    text = await guest.qmp("human-monitor-command", _ALL_REGISTERS)
    found: list[int] = []
    for number, registers in _VCPU.findall(str(text)):
        edx = _EDX.search(registers)
        if int(number) != len(found) or edx is None or len(found) >= _MAX_VCPUS:
            break
        found.append(int(edx[1], 16))
    else:
        if found:
            return found
    raise OperationError("QEMU does not show the guest's vCPUs", code="platform.vcpus")
