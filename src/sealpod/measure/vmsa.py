# SPDX-License-Identifier: Apache-2.0
"""The VMSA page: the registers a vCPU starts with, measured for SEV-ES and SEV-SNP guests.

Offsets are AMD APM volume 2, table B-4; values are those KVM and the VMM set before the launch ends. Every
field that is not in the tables below is zero. A segment is ``u16 selector, u16 attributes, u32 limit,
u64 base``; all numbers are little-endian.

The hypervisors differ in few fields (:data:`_QUIRKS`). The FPU's two are not zero only for guests of QEMU
whose VM was created with KVM_SEV_INIT2: KVM leaves them out on the older KVM_SEV_ES_INIT, "to avoid breaking
older measurements", and that one is what QEMU's ``sev-guest`` uses unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from struct import Struct
from typing import Final

from sealpod.errors import OperationError, UsageError
from sealpod.measure.vcpu import SIGNATURE_MASK
from sealpod.record import Record

PAGE_SIZE: Final = 4096
"""Bytes of a VMSA, and of every other page."""
BSP_EIP: Final = 0xFFFFFFF0
"""Where the first vCPU starts: the reset vector."""
SNP_ACTIVE: Final = 0x1
"""Bit of SEV_FEATURES every SEV-SNP guest has."""
FEATURES_MASK: Final = (1 << 64) - 1


class Fpu(Enum):
    """What stands in MXCSR and the x87 control word."""

    LEGACY = "legacy"
    """Zero: KVM_SEV_ES_INIT."""
    INIT2 = "init2"
    """Their reset values: KVM_SEV_INIT2."""


class Vmm(Enum):
    """The hypervisor whose register values are meant; by the names sev-snp-measure has for them."""

    QEMU = "QEMU"
    EC2 = "ec2"
    GCE = "gce"
    KRUN = "krun"


class _Quirks(Record):
    bsp_code: int = 0x9B
    """Attributes of CS of a vCPU that starts at the reset vector."""
    ap_code: int = 0x9B
    """The same, for one that starts elsewhere."""
    stack: int = 0x93
    task: int = 0x8B
    pat: int = 0x0007040600070406
    edx: int | None = None
    """RDX; None means the vCPU's signature."""


_QUIRKS: Final = {
    Vmm.QEMU: _Quirks(),
    Vmm.EC2: _Quirks(bsp_code=0x9A, stack=0x92, task=0x83, edx=0x600),
    Vmm.GCE: _Quirks(pat=0x00070106, edx=0x600),
    Vmm.KRUN: _Quirks(bsp_code=0x9A, ap_code=0x9A, stack=0x92, task=0x83, edx=0),
}

SEGMENT: Final = Struct("<HHIQ")
_U16, _U32, _U64 = Struct("<H"), Struct("<I"), Struct("<Q")

FIELDS: Final[dict[str, tuple[int, Struct]]] = {
    "es": (0x000, SEGMENT),
    "cs": (0x010, SEGMENT),
    "ss": (0x020, SEGMENT),
    "ds": (0x030, SEGMENT),
    "fs": (0x040, SEGMENT),
    "gs": (0x050, SEGMENT),
    "gdtr": (0x060, SEGMENT),
    "ldtr": (0x070, SEGMENT),
    "idtr": (0x080, SEGMENT),
    "tr": (0x090, SEGMENT),
    "efer": (0x0D0, _U64),
    "cr4": (0x148, _U64),
    "cr0": (0x158, _U64),
    "dr7": (0x160, _U64),
    "dr6": (0x168, _U64),
    "rflags": (0x170, _U64),
    "rip": (0x178, _U64),
    "g_pat": (0x268, _U64),
    "rdx": (0x310, _U64),
    "sev_features": (0x3B0, _U64),
    "xcr0": (0x3E8, _U64),
    "mxcsr": (0x408, _U32),
    "x87_fcw": (0x410, _U16),
}
"""Name to offset and layout of every field that is not zero at launch."""

Value = int | tuple[int, int, int, int]

_DATA: Final = (0, 0x93, 0xFFFF, 0)
_RESET: Final[dict[str, Value]] = {
    "es": _DATA,
    "ds": _DATA,
    "fs": _DATA,
    "gs": _DATA,
    "gdtr": (0, 0, 0xFFFF, 0),
    "ldtr": (0, 0x82, 0xFFFF, 0),
    "idtr": (0, 0, 0xFFFF, 0),
    "efer": 0x1000,  # SVME, which KVM needs
    "cr4": 0x40,  # MCE, which KVM sets
    "cr0": 0x10,
    "dr7": 0x400,
    "dr6": 0xFFFF0FF0,
    "rflags": 0x2,
    "xcr0": 0x1,
}
"""What no hypervisor changes."""
_QEMU: Final[dict[str, Value]] = {"tr": (0, 0x8B, 0xFFFF, 0), "g_pat": 0x0007040600070406}
MXCSR_RESET: Final = 0x1F80
X87_FCW_RESET: Final = 0x37F


def vmsa_page(
    *, eip: int, signature: int, vmm: Vmm = Vmm.QEMU, features: int = 0, fpu: Fpu = Fpu.LEGACY
) -> bytes:
    """The page of a vCPU that starts at ``eip``: :data:`BSP_EIP`, or the firmware's reset address.

    ``features`` is SEV_FEATURES: 0 for SEV-ES unless the host enables some, with :data:`SNP_ACTIVE` for
    SEV-SNP.

    :raise UsageError: signature or features have more than 64 bits.
    """
    quirks = _QUIRKS[vmm]
    values: dict[str, Value] = {
        "cs": (0xF000, quirks.bsp_code if eip == BSP_EIP else quirks.ap_code, 0xFFFF, eip & 0xFFFF0000),
        "ss": (0, quirks.stack, 0xFFFF, 0),
        "tr": (0, quirks.task, 0xFFFF, 0),
        "rip": eip & 0xFFFF,
        "g_pat": quirks.pat,
        "rdx": signature if quirks.edx is None else quirks.edx,
        "sev_features": features,
    }
    if fpu is Fpu.INIT2 and vmm is Vmm.QEMU:
        values |= {"mxcsr": MXCSR_RESET, "x87_fcw": X87_FCW_RESET}
    _check(signature, features)
    return fill(_RESET | values)


def reset_values() -> dict[str, Value]:
    """The fields neither a vCPU's signature nor its start changes, as QEMU and KVM set them."""
    return _RESET | _QEMU


def fill(values: dict[str, Value]) -> bytes:
    """A page of these fields, zero elsewhere."""
    page = bytearray(PAGE_SIZE)
    for name, value in values.items():
        offset, layout = FIELDS[name]
        layout.pack_into(page, offset, *(value if isinstance(value, tuple) else (value,)))
    return bytes(page)


def vmsa_pages(
    count: int,
    reset_eip: int,
    *,
    signature: int,
    vmm: Vmm = Vmm.QEMU,
    features: int = 0,
    fpu: Fpu = Fpu.LEGACY,
) -> Iterator[bytes]:
    """The pages of ``count`` vCPUs, the first one first; the others start at ``reset_eip`` and are equal.

    :raise OperationError: more than one vCPU and no address to start the others at, as QEMU says it.
    """
    if count > 0:
        yield vmsa_page(eip=BSP_EIP, signature=signature, vmm=vmm, features=features, fpu=fpu)
    if count <= 1:
        return
    if not reset_eip:
        raise OperationError(
            "SEV-ES reset address is zero",
            code="measure.reset-zero",
            remedy="this firmware starts one vCPU only; use another build of OVMF",
        )
    other = vmsa_page(eip=reset_eip, signature=signature, vmm=vmm, features=features, fpu=fpu)
    for _ in range(count - 1):
        yield other


def _check(signature: int, features: int) -> None:
    if not 0 <= signature <= SIGNATURE_MASK:
        raise UsageError(f"{signature:#x} is no vCPU signature", code="measure.vcpu")
    if not 0 <= features <= FEATURES_MASK:
        raise UsageError(f"{features:#x} are no guest features", code="measure.features")
