# SPDX-License-Identifier: Apache-2.0
"""The save areas sevctl builds for the vCPUs of a SEV-ES guest under QEMU and under krun.

The registers are those KVM gives a new vCPU, changed by one of two programs: QEMU resets a processor as
hardware does, krun enters the kernel it has loaded. Pages of other programs, the fields some kernels fill
behind 0x408, and launch digests are :mod:`sealpod.measure`'s matter; there krun's page follows
sev-snp-measure, which differs from sevctl's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from sealpod.errors import UsageError
from sealpod.sev.vmsafields import decode, encode, replace

Userspace = Literal["qemu", "krun"]
USERSPACES: Final[tuple[Userspace, ...]] = ("qemu", "krun")

RESET_SELECTOR: Final = 0xF000
RESET_BASE: Final = 0xFFFF_0000
"""CS and its base after a reset: with RIP 0xfff0 the processor starts 16 bytes below 4 GiB."""
KRUN_AP_BASE: Final = 0x91000
"""Where krun starts the second and later vCPUs."""


@dataclass(frozen=True, slots=True)
class Sku:
    """What CPUID says a processor is. All zero stands for "not given"."""

    family: int = 0
    model: int = 0
    stepping: int = 0

    def __post_init__(self) -> None:
        for name, value, limit in (
            ("family", self.family, 0xF + 0xFF),
            ("model", self.model, 0xFF),
            ("stepping", self.stepping, 0xF),
        ):
            if not 0 <= value <= limit:
                raise UsageError(f"a CPU's {name} is 0 to {limit}, not {value}", code="vmsa.sku")

    @property
    def given(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.family or self.model or self.stepping)

    @property
    def signature(self) -> int:
        """CPUID 1, EAX; what RDX holds after a reset. Families above 15 are written as 15 and the rest."""
        base = min(self.family, 0xF)
        extended = self.family - base
        low, high = self.model & 0xF, self.model >> 4
        return extended << 20 | high << 16 | base << 8 | low << 4 | self.stepping


def build(userspace: Userspace, cpu: int, *, sku: Sku, reset_address: int | None) -> bytes:
    """The page of one vCPU; ``cpu`` 0 is the one that boots.

    ``reset_address`` is where OVMF has the other vCPUs start. It counts for the
    second and later ones of QEMU only.
    """
    values = _initial(userspace, cpu)
    return update(encode(values), userspace, cpu, sku=sku, reset_address=reset_address)


def update(page: bytes, userspace: Userspace, cpu: int, *, sku: Sku, reset_address: int | None) -> bytes:
    """A page with another processor's signature, when one is given, or reset address; all else stays.

    :raise DecodeError: not 4096 bytes.
    """
    fields = decode(page)
    values: dict[str, object] = {}
    if sku.given:
        values["rdx"] = sku.signature
    segment = fields["cs"]
    if reset_address is not None and userspace == "qemu" and cpu and isinstance(segment, dict):
        # All four bytes of the address count: the upper half is the base of CS.
        values["cs"] = {**segment, "base": reset_address & 0xFFFF_0000}
        values["rip"] = reset_address & 0xFFFF
    return replace(page, values)


def _segment(attrib: int, *, selector: int = 0, base: int = 0) -> dict[str, int]:
    return {"selector": selector, "attrib": attrib, "limit": 0xFFFF, "base": base}


def _initial(userspace: Userspace, cpu: int) -> dict[str, object]:
    data = _segment(0x93)
    values: dict[str, object] = {
        "cs": _segment(0x9B, selector=RESET_SELECTOR, base=RESET_BASE),
        **dict.fromkeys(("ds", "es", "fs", "gs", "ss"), data),
        **dict.fromkeys(("gdtr", "idtr"), _segment(0)),
        "ldtr": _segment(0x82),
        "tr": _segment(0x8B),
        "cr0": 0x10,
        "rip": 0xFFF0,
        "dr6": 0xFFFF_0FF0,
        "dr7": 0x400,
        "rflags": 2,
        "xcr0": 1,
        "cr4": 0x40,  # machine check, which KVM takes over from the host
        "efer": 0x1000,  # SVME, which KVM always sets
        "g_pat": 0x0007_0406_0007_0406,
    }
    return values if userspace == "qemu" else {**values, **_krun(cpu)}


def _krun(cpu: int) -> dict[str, object]:
    """Where krun differs: its code and stack segments are not yet accessed, its task is KVM's own."""
    segments = {"ss": _segment(0x92), "tr": _segment(0x83)}
    if cpu:
        return {**segments, "cs": _segment(0x9A, selector=KRUN_AP_BASE >> 4, base=KRUN_AP_BASE), "rip": 0}
    entry = {"rsi": 0x7000, "rbp": 0x8FF0, "rsp": 0x8FF0}
    return {**segments, **entry, "cs": _segment(0x9A, selector=RESET_SELECTOR, base=RESET_BASE)}
