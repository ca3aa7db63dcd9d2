# SPDX-License-Identifier: Apache-2.0
"""What to do about a test of :mod:`.hostcheck` that failed: firmware set-up, kernel, modules, permissions.

Names of BIOS settings are those of AMD's reference firmware; vendors rename and move them.
"""

from __future__ import annotations

import errno
from typing import Final

from sealpod.platform.hostprobe import HostProbe

_HYPERVISOR_BIT: Final = 1 << 31
_HYPERVISOR_LEAF: Final = 0x40000000
_HYPERVISORS: Final = {
    "KVMKVMKVM": "KVM",
    "Microsoft Hv": "Hyper-V",
    "VMwareVMware": "VMware",
    "XenVMMXenVMM": "Xen",
    "TCGTCGTCGTCG": "QEMU, emulated",
}
_COMMAND_LINE: Final = "/proc/cmdline"
# What KVM wants switched on before it offers either (kernel, arch/x86/kvm/svm/sev.c, sev_hardware_setup).
_SEV_SWITCHES: Final = ("kvm_amd.sev", "kvm_amd.npt", "kvm_amd.nrips")
_SWITCHES: Final = {
    "sev": _SEV_SWITCHES,
    "sev_es": (*_SEV_SWITCHES, "kvm_amd.sev_es", "kvm_amd.lbrv", "kvm.mmio_caching"),
}
_MODEL: Final = "or use the software model (--platform model), which protects nothing"

CPUID: Final = "run on x86-64, as root with the module cpuid loaded or where mappings may be executable"
NO_SME: Final = "BIOS: enable SMEE (Advanced, CBS, CPU common options); or the processor has no encryption"
SME_OFF: Final = "BIOS: enable SMEE (Advanced, CBS, CPU common options), then switch the machine off and on"
NO_SEV: Final = (
    "BIOS: enable SMEE and SEV, and set SEV ASID Count above 0; or the processor is older than EPYC 7001"
)
NO_ASIDS: Final = "BIOS: set SEV ASID Count above 0; with none, no SEV guest can run"
NO_ES: Final = (
    "SEV-ES needs an EPYC whose firmware offers it: update the BIOS; guests with policy bit 2 cannot be "
    "launched here, others can (`sealpod sev ok sev`)"
)
NO_SNP: Final = (
    "SEV-SNP needs an EPYC 7003 (Milan) or later; SEV and SEV-ES guests need none of it (`sealpod sev ok es`)"
)
SNP_OFF: Final = (
    "BIOS: enable SEV-SNP Support and SNP Memory (RMP Table) Coverage; kernel: 6.11 or later with the IOMMU "
    "on and kvm_amd.sev_snp=1; SEV and SEV-ES guests need none of it (`sealpod sev ok es`)"
)
MEMLOCK: Final = (
    "the RAM of a SEV guest is locked in memory: raise the limit above it (ulimit -l, LimitMEMLOCK= of the "
    "service, memlock in /etc/security/limits.conf)"
)
_LOAD_KVM: Final = "load the module: modprobe kvm_amd; if that fails, enable SVM in the BIOS and see dmesg"
_LOAD_CCP: Final = (
    "load the module: modprobe ccp (kernel with CONFIG_CRYPTO_DEV_SP_PSP), and see dmesg for ccp; BIOS: "
    "enable SMEE and SEV; in a container, pass the device in (--device /dev/sev)"
)


def hidden(host: HostProbe) -> str:
    """That this is a virtual machine, whose processor shows what its hypervisor lets it; empty when not."""
    try:
        if not host.cpuid(1)[2] & _HYPERVISOR_BIT:
            return ""
        registers = host.cpuid(_HYPERVISOR_LEAF)
    except OSError:
        return ""
    name = b"".join(part.to_bytes(4, "little") for part in registers[1:]).decode("ascii", "replace")
    vendor = _HYPERVISORS.get(name.strip("\0"), "")
    return (
        f"this is a virtual machine{f' ({vendor})' if vendor else ''}, and its hypervisor hides SEV: "
        f"use the host itself or a bare-metal instance, {_MODEL}"
    )


def other_vendor(vendor: str) -> str:
    """Not an AMD processor."""
    return f"SEV is in AMD's EPYC processors, this one says {vendor!r}: use another machine, {_MODEL}"


def other_brand(brand: str) -> str:
    """An AMD processor of another line."""
    return (
        f"SEV is in AMD's EPYC processors, this one is {brand or 'nameless'!r}: use another machine, {_MODEL}"
    )


def no_msr(host: HostProbe, error: OSError) -> str:
    """A register that cannot be read: it may well hold what it should."""
    virtual = hidden(host)
    if virtual:
        return virtual
    if isinstance(error, PermissionError):
        return "this register tells whether the BIOS has switched encryption on, and only root may read it"
    return (
        "this register tells whether the BIOS has switched encryption on; load the module that reads it: "
        "modprobe msr (kernel with CONFIG_X86_MSR), and run as root"
    )


def no_module(host: HostProbe) -> str:
    """KVM's module for AMD is not there."""
    return hidden(host) or _LOAD_KVM


def parameter_off(host: HostProbe, parameter: str, lowest_sev_asid: int) -> str:
    """KVM's module is there and does not offer it."""
    for word in _command_line(host):
        name, _, value = word.partition("=")
        if name in _SWITCHES[parameter] and value.lower() in ("0", "n", "off"):
            return f"kernel: {word} on the command line switches it off; remove it and boot again"
    if parameter == "sev_es" and lowest_sev_asid <= 1:
        return "BIOS: SEV-ES ASID Space Limit leaves SEV-ES guests no number: set it above 1"
    return (
        f"kernel: put kvm_amd.{parameter}=1 on the command line, or `options kvm_amd {parameter}=1` into "
        "/etc/modprobe.d/kvm_amd.conf and load the module again; see dmesg for kvm_amd and ccp, which say "
        "what they miss"
    )


def no_sev_device(host: HostProbe, error: OSError) -> str:
    """``/dev/sev`` cannot be opened."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            'run as root, or let a group use the device: KERNEL=="sev", GROUP="kvm", MODE="0660" in '
            "/etc/udev/rules.d/60-sev.rules"
        )
    if error.errno == errno.EBUSY:
        return "the firmware does not answer any more: see dmesg for ccp; switch the machine off and on"
    return hidden(host) or _LOAD_CCP


def no_kvm(host: HostProbe, error: OSError) -> str:
    """``/dev/kvm`` cannot be used."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return "add this user to the group kvm (usermod -aG kvm USER) and log in again, or run as root"
    if error.errno == errno.ENOENT:
        return hidden_kvm(host) or _LOAD_KVM
    return _LOAD_KVM


def hidden_kvm(host: HostProbe) -> str:
    """In a virtual machine KVM needs its hypervisor's leave."""
    if not hidden(host):
        return ""
    return "this is a virtual machine: have its host allow nested virtualization; guests are emulated without"


def _command_line(host: HostProbe) -> list[str]:
    try:
        return host.text(_COMMAND_LINE).split()
    except OSError:
        return []
