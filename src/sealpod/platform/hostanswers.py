# SPDX-License-Identifier: Apache-2.0
"""The single tests of :mod:`.hostcheck`: what is asked, when the answer is yes, and sevctl's messages.

Sources: AMD APM volume 3, CPUID 0x8000001F (EAX 0 SME, 1 SEV, 2 page flush MSR, 3 SEV-ES, 4 SEV-SNP, 5 VMPL;
EBX 5:0 C-bit, 11:6 reduction, 15:12 VMPLs; ECX guests; EDX lowest ASID without SEV-ES); volume 2, SYSCFG
(MSR C0010010, 23 MemEncryptionModEn, 24 SecureNestedPagingEn, 25 VMPLEn).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sealpod.platform import hostremedies as remedy
from sealpod.platform.hostprobe import KVM_DEVICE, HostProbe, Leaf, OpenMode

HIGHEST_EXTENDED: Final = 0x80000000
EXTENDED_SIGNATURE: Final = 0x80000001
BRAND_LEAVES: Final = (0x80000002, 0x80000003, 0x80000004)
MEMORY_ENCRYPTION: Final = 0x8000001F
SYSCFG: Final = 0xC0010010

SME_BIT, SEV_BIT, PAGE_FLUSH_BIT, ES_BIT, SNP_BIT, VMPL_BIT = range(6)
SYSCFG_SME, SYSCFG_SNP, SYSCFG_VMPL = 23, 24, 25

VENDOR: Final = "AuthenticAMD"
SEV_DEVICE: Final = "/dev/sev"
KVM_PARAMETERS: Final = "/sys/module/kvm_amd/parameters"
LITTLE_MEMLOCK: Final = 1 << 30
"""Bytes; fewer than the RAM of any useful guest."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a machine says to one test."""

    holds: bool
    message: str = ""
    remedy: str = ""
    name: str = ""
    """A name in place of the test's own."""


def amd_cpu(host: HostProbe) -> Answer:
    """The vendor."""
    try:
        vendor = _ascii(host.cpuid(0), (1, 3, 2))
    except OSError as error:
        return Answer(False, _text(error), remedy.CPUID)
    return Answer(True) if vendor == VENDOR else Answer(False, remedy=remedy.other_vendor(vendor))


def microcode(host: HostProbe) -> Answer:
    """The brand, by which EPYC is told from processors without SEV."""
    brand = "".join(_ascii(_leaf(host, leaf), range(4)) for leaf in BRAND_LEAVES).strip(" \0")
    return Answer(True) if "EPYC" in brand.upper() else Answer(False, remedy=remedy.other_brand(brand))


def sme(host: HostProbe) -> Answer:
    """Memory encryption: in the processor, and switched on by the firmware of the machine."""
    return _feature(host, SME_BIT, SYSCFG_SME, remedy.NO_SME, remedy.SME_OFF)


def sev(host: HostProbe) -> Answer:
    """SEV in the processor."""
    return _feature(host, SEV_BIT, None, remedy.NO_SEV, "")


def es(host: HostProbe) -> Answer:
    """SEV-ES in the processor."""
    return _feature(host, ES_BIT, None, remedy.NO_ES, "")


def snp(host: HostProbe) -> Answer:
    """SEV-SNP in the processor, and switched on."""
    return _feature(host, SNP_BIT, SYSCFG_SNP, remedy.NO_SNP, remedy.SNP_OFF)


def vmpl(host: HostProbe) -> Answer:
    """Permission levels in the processor, and switched on."""
    return _feature(host, VMPL_BIT, SYSCFG_VMPL, remedy.NO_SNP, remedy.SNP_OFF)


def vmpl_count(host: HostProbe) -> Answer:
    """How many permission levels."""
    return Answer(True, str(_leaf(host, MEMORY_ENCRYPTION)[1] >> 12 & 0xF))


def reduction(host: HostProbe) -> Answer:
    """Address bits that encryption takes."""
    return Answer(True, str(_leaf(host, MEMORY_ENCRYPTION)[1] >> 6 & 0x3F))


def c_bit(host: HostProbe) -> Answer:
    """Which bit of an address says that memory is encrypted."""
    return Answer(True, str(_leaf(host, MEMORY_ENCRYPTION)[1] & 0x3F))


def guest_count(host: HostProbe) -> Answer:
    """How many guests can run at once."""
    count = _leaf(host, MEMORY_ENCRYPTION)[2]
    return Answer(True, str(count), "" if count else remedy.NO_ASIDS)


def minimum_asid(host: HostProbe) -> Answer:
    """The ASIDs below are SEV-ES guests'."""
    return Answer(True, str(_leaf(host, MEMORY_ENCRYPTION)[3]))


def page_flush(host: HostProbe) -> Answer:
    """Passes always: the MSR may be there and switched off."""
    on = _leaf(host, MEMORY_ENCRYPTION)[0] >> PAGE_FLUSH_BIT & 1
    return Answer(True, name=f"Page flush MSR: {'ENABLED' if on else 'DISABLED'}")


def kvm_sev(host: HostProbe) -> Answer:
    """Whether KVM's module offers SEV."""
    return _parameter(host, "sev", "SEV enabled in KVM")


def kvm_es(host: HostProbe) -> Answer:
    """Whether KVM's module offers SEV-ES."""
    return _parameter(host, "sev_es", "SEV-ES enabled in KVM")


def sev_readable(host: HostProbe) -> Answer:
    """The firmware's device, for asking."""
    return _device(host, "read", "Reading /dev/sev", "readable")


def sev_writable(host: HostProbe) -> Answer:
    """The firmware's device, for changing."""
    return _device(host, "write", "Writing /dev/sev", "writable")


def kvm(host: HostProbe) -> Answer:
    """KVM itself."""
    name = "KVM supported"
    try:
        host.open(KVM_DEVICE, "read")
    except OSError as error:
        return Answer(
            False, f"Error reading {KVM_DEVICE}: ({_text(error)})", remedy.no_kvm(host, error), name
        )
    try:
        return Answer(True, f"API version: {host.kvm_api_version()}", name=name)
    except OSError as error:
        return Answer(False, "Error - accessing KVM device node failed", remedy.no_kvm(host, error), name)


def memlock(host: HostProbe) -> Answer:
    """How much memory this user may lock: a SEV guest's RAM is."""
    name = "Memlock resource limit"
    try:
        soft, hard = host.memlock()
    except OSError:
        return Answer(False, "Unable to retrieve memlock resource limits", name=name)
    advice = remedy.MEMLOCK if soft < LITTLE_MEMLOCK else ""
    return Answer(True, f"Soft: {soft} | Hard: {hard}", advice, name)


def _feature(host: HostProbe, bit: int, syscfg: int | None, absent: str, off: str) -> Answer:
    if not _leaf(host, MEMORY_ENCRYPTION)[0] >> bit & 1:
        return Answer(False, remedy=remedy.hidden(host) or absent)
    if syscfg is None:
        return Answer(True)
    try:
        value = host.msr(SYSCFG)
    except OSError as error:
        return Answer(False, f"MSR {SYSCFG:X} cannot be read: {_text(error)}", remedy.no_msr(host, error))
    return Answer(True) if value >> syscfg & 1 else Answer(False, remedy=remedy.hidden(host) or off)


def _parameter(host: HostProbe, parameter: str, name: str) -> Answer:
    path = f"{KVM_PARAMETERS}/{parameter}"
    try:
        value = host.text(path)
    except FileNotFoundError:
        return Answer(False, f"Error - {path} does not exist", remedy.no_module(host), name)
    except OSError as error:
        return Answer(False, f"Error - (unable to read {path}): {_text(error)}", remedy.no_module(host), name)
    if value in ("1", "Y"):
        return Answer(True, "enabled", name=name)
    lowest = _leaf(host, MEMORY_ENCRYPTION)[3]
    what = remedy.parameter_off(host, parameter, lowest)
    return Answer(False, f"Error - contents read from {path}: {value}", what, name)


def _device(host: HostProbe, mode: OpenMode, name: str, word: str) -> Answer:
    try:
        host.open(SEV_DEVICE, mode)
    except OSError as error:
        message = f"{SEV_DEVICE} not {word}: {_text(error)}"
        return Answer(False, message, remedy.no_sev_device(host, error), name)
    return Answer(True, f"{SEV_DEVICE} {word}", name=name)


def _leaf(host: HostProbe, leaf: int) -> Leaf:
    """A leaf's registers; zeros when the processor does not have it (Intel's repeat another leaf's)."""
    try:
        return host.cpuid(leaf) if host.cpuid(HIGHEST_EXTENDED)[0] >= leaf else (0, 0, 0, 0)
    except OSError:
        return (0, 0, 0, 0)


def _ascii(registers: Leaf, order: range | tuple[int, ...]) -> str:
    data = b"".join(registers[index].to_bytes(4, "little") for index in order)
    return data.decode("ascii", "replace")


def _text(error: OSError) -> str:
    """As Rust's programs tell a system's error."""
    return f"{error.strerror} (os error {error.errno})" if error.errno else str(error.strerror)
