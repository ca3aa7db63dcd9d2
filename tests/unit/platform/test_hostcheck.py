# SPDX-License-Identifier: Apache-2.0
"""sevctl's tests of a machine: on machines of every kind, scripted, and on this one."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.platform.hostcheck import (
    TESTS,
    Generation,
    Outcome,
    Test,
    check_host,
    detect_generation,
    flatten,
    passed,
    remedies,
)
from sealpod.platform.hostprobe import RealHost

BRAND = b"AMD EPYC 7713 64-Core Processor".ljust(48, b"\0")


def words(text: bytes) -> list[int]:
    return [int.from_bytes(text[at : at + 4], "little") for at in range(0, len(text), 4)]


def vendor_leaf(vendor: bytes) -> tuple[int, int, int, int]:
    ebx, edx, ecx = words(vendor)
    return (0x10, ebx, ecx, edx)


def failure(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@dataclass(frozen=True)
class ScriptedHost:
    """A Milan with everything switched on; an ``OSError`` in place of an answer is raised."""

    leaves: dict[int, Any] = field(
        default_factory=lambda: {
            0: vendor_leaf(b"AuthenticAMD"),
            1: (0xA00F11, 0, 0, 0),
            0x80000000: (0x80000023, 0, 0, 0),
            0x80000001: (0xA00F11, 0, 0, 0),
            **{0x80000002 + n: tuple(words(BRAND[16 * n : 16 * n + 16])) for n in range(3)},
            0x8000001F: (0b111111, 51 | 5 << 6 | 4 << 12, 509, 100),
        }
    )
    syscfg: Any = 0b111 << 23
    files: dict[str, Any] = field(
        default_factory=lambda: {
            "/sys/module/kvm_amd/parameters/sev": "Y",
            "/sys/module/kvm_amd/parameters/sev_es": "1",
            "/proc/cmdline": "BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro",
        }
    )
    devices: dict[tuple[str, str], OSError] = field(default_factory=dict)
    kvm: Any = 12
    locks: Any = ((1 << 64) - 1, (1 << 64) - 1)

    def cpuid(self, leaf: int) -> tuple[int, int, int, int]:
        found: tuple[int, int, int, int] = self._answer(self.leaves.get(leaf, (0, 0, 0, 0)))
        return found

    def msr(self, index: int) -> int:
        assert index == 0xC0010010
        value: int = self._answer(self.syscfg)
        return value

    def text(self, path: str) -> str:
        value: str = self._answer(self.files.get(path, FileNotFoundError(errno.ENOENT, "No such file")))
        return value

    def open(self, path: str, mode: str) -> None:
        if (path, mode) in self.devices:
            raise self.devices[path, mode]

    def kvm_api_version(self) -> int:
        value: int = self._answer(self.kvm)
        return value

    def memlock(self) -> tuple[int, int]:
        limits: tuple[int, int] = self._answer(self.locks)
        return limits

    @staticmethod
    def _answer(value: Any) -> Any:
        if isinstance(value, OSError):
            raise value
        return value

    def with_leaf(self, leaf: int, value: Any) -> ScriptedHost:
        return replace(self, leaves={**self.leaves, leaf: value})

    def without_bits(self, *bits: int) -> ScriptedHost:
        eax, *rest = self.leaves[0x8000001F]
        return self.with_leaf(0x8000001F, (eax & ~sum(1 << bit for bit in bits), *rest))

    def with_file(self, path: str, value: Any) -> ScriptedHost:
        return replace(self, files={**self.files, path: value})

    def virtual(self, vendor: bytes = b"KVMKVMKVM\0\0\0") -> ScriptedHost:
        named = self.with_leaf(0x40000000, (0x40000001, *words(vendor)))
        return named.with_leaf(1, (0xA00F11, 0, 1 << 31, 0))


GOOD = ScriptedHost()


def outcome(host: ScriptedHost, name: str, generation: Generation = Generation.SNP) -> Outcome:
    found = [one for _, one in flatten(check_host(host, generation)) if one.name == name]
    assert len(found) == 1, f"{len(found)} tests are named {name}"
    return found[0]


def lines(host: ScriptedHost, generation: Generation = Generation.SNP) -> list[str]:
    outcomes = flatten(check_host(host, generation))
    return [f"{one.state} {'  ' * depth}{one.name}: {one.message}" for depth, one in outcomes]


def test_a_machine_that_has_everything() -> None:
    assert lines(GOOD) == [
        "PASS AMD CPU: ",
        "PASS   Microcode support: ",
        "PASS   Secure Memory Encryption (SME): ",
        "PASS   Secure Encrypted Virtualization (SEV): ",
        "PASS     Encrypted State (SEV-ES): ",
        "PASS     Secure Nested Paging (SEV-SNP): ",
        "PASS       VM Permission Levels: ",
        "PASS         Number of VMPLs: 4",
        "PASS     Physical address bit reduction: 5",
        "PASS     C-bit location: 51",
        "PASS     Number of encrypted guests supported simultaneously: 509",
        "PASS     Minimum ASID value for SEV-enabled, SEV-ES disabled guest: 100",
        "PASS     SEV enabled in KVM: enabled",
        "PASS     SEV-ES enabled in KVM: enabled",
        "PASS     Reading /dev/sev: /dev/sev readable",
        "PASS     Writing /dev/sev: /dev/sev writable",
        "PASS   Page flush MSR: ENABLED: ",
        "PASS KVM supported: API version: 12",
        "PASS Memlock resource limit: Soft: 18446744073709551615 | Hard: 18446744073709551615",
    ]
    assert passed(check_host(GOOD, Generation.SNP))
    assert remedies(check_host(GOOD, Generation.SNP)) == {}


def test_later_generations_are_skipped() -> None:
    states = {one.name: one.state for _, one in flatten(check_host(GOOD, Generation.SEV))}
    skipped = {name for name, state in states.items() if state == "SKIP"}
    assert skipped == {
        "Encrypted State (SEV-ES)",
        "Secure Nested Paging (SEV-SNP)",
        "VM Permission Levels",
        "Number of VMPLs",
        "SEV-ES enabled in KVM",
    }
    assert "Encrypted State (SEV-ES)" not in {
        one.name for _, one in flatten(check_host(GOOD, Generation.ES)) if one.state == "SKIP"
    }


def test_a_failed_tests_own_tests_are_skipped() -> None:
    intel = GOOD.with_leaf(0, vendor_leaf(b"GenuineIntel"))
    outcomes = list(flatten(check_host(intel, Generation.SNP)))
    assert [one.state for _, one in outcomes[:2]] == ["FAIL", "SKIP"]
    assert {one.state for depth, one in outcomes if depth} == {"SKIP"}
    assert outcome(intel, "KVM supported").state == "PASS"
    assert "GenuineIntel" in outcome(intel, "AMD CPU").remedy
    assert "--platform model" in outcome(intel, "AMD CPU").remedy
    assert not passed(check_host(intel, Generation.SEV))


SME, SEV = "Secure Memory Encryption (SME)", "Secure Encrypted Virtualization (SEV)"
ES, SNP, VMPL = "Encrypted State (SEV-ES)", "Secure Nested Paging (SEV-SNP)", "VM Permission Levels"
KVM_SEV, KVM_ES = "SEV enabled in KVM", "SEV-ES enabled in KVM"
READ, WRITE, KVM = "Reading /dev/sev", "Writing /dev/sev", "KVM supported"
PARAMETERS = "/sys/module/kvm_amd/parameters"
CMDLINE = "/proc/cmdline"


@pytest.mark.parametrize(
    ("host", "test", "message", "remedy"),
    [
        (GOOD.with_leaf(0, failure(errno.EPERM)), "AMD CPU", "Operation not permitted (os error 1)", "cpuid"),
        (GOOD.with_leaf(0x80000002, tuple(words(b"AMD Ryzen 9 5950")))
         .with_leaf(0x80000003, (0, 0, 0, 0)), "Microcode support", "", "AMD Ryzen 9 5950"),
        (GOOD.without_bits(0), SME, "", "BIOS: enable SMEE"),
        (replace(GOOD, syscfg=0b110 << 23), SME, "", "BIOS: enable SMEE"),
        (replace(GOOD, syscfg=failure(errno.ENOENT)), SME,
         "MSR C0010010 cannot be read: No such file or directory (os error 2)", "modprobe msr"),
        (replace(GOOD, syscfg=failure(errno.EACCES)), SME,
         "MSR C0010010 cannot be read: Permission denied (os error 13)", "only root"),
        (replace(GOOD, syscfg=OSError(0, "gave less")), SME,
         "MSR C0010010 cannot be read: gave less", "modprobe msr"),
        (GOOD.without_bits(1), SEV, "", "SEV ASID Count"),
        (GOOD.with_leaf(0x80000000, (0x8000001E, 0, 0, 0)), SEV, "", "SEV ASID Count"),
        (GOOD.with_leaf(0x8000001F, failure(errno.EIO)), SEV, "", "SEV ASID Count"),
        (GOOD.without_bits(3), ES, "", "update the BIOS"),
        (GOOD.without_bits(4), SNP, "", "EPYC 7003"),
        (replace(GOOD, syscfg=0b101 << 23), SNP, "", "RMP Table"),
        (GOOD.without_bits(5), VMPL, "", "EPYC 7003"),
        (replace(GOOD, syscfg=0b011 << 23), VMPL, "", "RMP Table"),
        (GOOD.with_file(f"{PARAMETERS}/sev", failure(errno.ENOENT)), KVM_SEV,
         f"Error - {PARAMETERS}/sev does not exist", "modprobe kvm_amd"),
        (GOOD.with_file(f"{PARAMETERS}/sev", failure(errno.EIO)), KVM_SEV,
         f"Error - (unable to read {PARAMETERS}/sev): Input/output error (os error 5)", "modprobe kvm_amd"),
        (GOOD.with_file(f"{PARAMETERS}/sev", "N"), KVM_SEV,
         f"Error - contents read from {PARAMETERS}/sev: N", "kvm_amd.sev=1"),
        (GOOD.with_file(f"{PARAMETERS}/sev", "0").with_file(CMDLINE, failure(errno.EACCES)), KVM_SEV,
         f"Error - contents read from {PARAMETERS}/sev: 0", "options kvm_amd sev=1"),
        (GOOD.with_file(f"{PARAMETERS}/sev", "N").with_file(CMDLINE, "ro kvm_amd.sev=0"), KVM_SEV,
         f"Error - contents read from {PARAMETERS}/sev: N", "kvm_amd.sev=0 on the command line switches"),
        (GOOD.with_file(f"{PARAMETERS}/sev", "N").with_file(CMDLINE, "kvm_amd.npt=N kvm_amd.sev=1"), KVM_SEV,
         f"Error - contents read from {PARAMETERS}/sev: N", "kvm_amd.npt=N on the command line switches"),
        (GOOD.with_file(f"{PARAMETERS}/sev", "N").with_file(CMDLINE, "kvm.mmio_caching=0"), KVM_SEV,
         f"Error - contents read from {PARAMETERS}/sev: N", "put kvm_amd.sev=1"),
        (GOOD.with_file(f"{PARAMETERS}/sev_es", "N").with_file(CMDLINE, "kvm.mmio_caching=0"), KVM_ES,
         f"Error - contents read from {PARAMETERS}/sev_es: N", "kvm.mmio_caching=0 on the command line"),
        (GOOD.with_file(f"{PARAMETERS}/sev_es", "N"), KVM_ES,
         f"Error - contents read from {PARAMETERS}/sev_es: N", "kvm_amd.sev_es=1"),
        (GOOD.with_file(f"{PARAMETERS}/sev_es", "N")
         .with_leaf(0x8000001F, (0b111111, 51, 509, 1)), KVM_ES,
         f"Error - contents read from {PARAMETERS}/sev_es: N", "SEV-ES ASID Space Limit"),
        (replace(GOOD, devices={("/dev/sev", "read"): failure(errno.ENOENT)}), READ,
         "/dev/sev not readable: No such file or directory (os error 2)", "modprobe ccp"),
        (replace(GOOD, devices={("/dev/sev", "write"): failure(errno.EACCES)}), WRITE,
         "/dev/sev not writable: Permission denied (os error 13)", "udev"),
        (replace(GOOD, devices={("/dev/sev", "read"): failure(errno.EPERM)}), READ,
         "/dev/sev not readable: Operation not permitted (os error 1)", "udev"),
        (replace(GOOD, devices={("/dev/sev", "write"): failure(errno.EBUSY)}), WRITE,
         "/dev/sev not writable: Device or resource busy (os error 16)", "does not answer any more"),
        (replace(GOOD, devices={("/dev/kvm", "read"): failure(errno.ENOENT)}), KVM,
         "Error reading /dev/kvm: (No such file or directory (os error 2))", "modprobe kvm_amd"),
        (replace(GOOD, devices={("/dev/kvm", "read"): failure(errno.ENODEV)}), KVM,
         "Error reading /dev/kvm: (No such device (os error 19))", "SVM"),
        (replace(GOOD, devices={("/dev/kvm", "read"): failure(errno.EACCES)}), KVM,
         "Error reading /dev/kvm: (Permission denied (os error 13))", "group kvm"),
        (replace(GOOD, kvm=failure(errno.ENOTTY)), KVM,
         "Error - accessing KVM device node failed", "kvm_amd"),
        (replace(GOOD, locks=failure(errno.EINVAL)), "Memlock resource limit",
         "Unable to retrieve memlock resource limits", ""),
    ],
)  # fmt: skip
def test_what_is_wrong_and_what_to_do(host: ScriptedHost, test: str, message: str, remedy: str) -> None:
    found = outcome(host, test)
    assert (found.state, found.message) == ("FAIL", message)
    assert remedy in found.remedy
    assert not passed(check_host(host, Generation.SNP))


@pytest.mark.parametrize(
    ("vendor", "name"),
    [
        (b"KVMKVMKVM\0\0\0", "virtual machine (KVM)"),
        (b"Microsoft Hv", "virtual machine (Hyper-V)"),
        (b"somebody'sVM", "virtual machine, and"),
    ],
)
def test_inside_a_virtual_machine_that_hides_sev(vendor: bytes, name: str) -> None:
    host = replace(
        GOOD.virtual(vendor).without_bits(0, 1),
        devices={("/dev/sev", "read"): failure(errno.ENOENT), ("/dev/kvm", "read"): failure(errno.ENOENT)},
    )
    found = remedies(check_host(host, Generation.SNP))
    text = next(iter(found))
    assert found[text] == [SME, SEV]
    assert name in text
    assert "--platform model" in text
    assert "nested virtualization" in outcome(host, KVM).remedy


@pytest.mark.parametrize(
    "host",
    [
        replace(GOOD.virtual(), syscfg=failure(errno.ENOENT)),
        replace(GOOD.virtual(), syscfg=0),
        GOOD.virtual().with_file(f"{PARAMETERS}/sev", failure(errno.ENOENT)),
        replace(GOOD.virtual(), devices={("/dev/sev", "read"): failure(errno.ENOENT)}),
    ],
)
def test_a_virtual_machine_is_not_sent_to_its_bios(host: ScriptedHost) -> None:
    for text in remedies(check_host(host, Generation.SNP)):
        assert text.startswith("this is a virtual machine (KVM)")


def test_a_hypervisor_that_cannot_be_asked_counts_as_none() -> None:
    host = GOOD.virtual().with_leaf(0x40000000, failure(errno.EIO)).without_bits(1)
    assert "BIOS" in outcome(host, SEV).remedy


def test_a_switched_off_page_flush_passes() -> None:
    assert outcome(GOOD.without_bits(2), "Page flush MSR: DISABLED").state == "PASS"


def test_no_room_for_guests_passes_with_advice() -> None:
    found = outcome(
        GOOD.with_leaf(0x8000001F, (0b111111, 51, 0, 0)),
        "Number of encrypted guests supported simultaneously",
    )
    assert (found.state, found.message) == ("PASS", "0")
    assert "SEV ASID Count" in found.remedy


def test_little_lockable_memory_passes_with_advice() -> None:
    found = outcome(replace(GOOD, locks=(8 << 20, 8 << 20)), "Memlock resource limit")
    assert (found.state, found.message) == ("PASS", "Soft: 8388608 | Hard: 8388608")
    assert "ulimit -l" in found.remedy


@pytest.mark.parametrize(
    ("signature", "generation"),
    [
        (0x00800F12, Generation.SEV),  # Naples: family 0x17, model 0x01
        (0x00830F00, Generation.SEV),  # model 0x30
        (0x00830F10, Generation.ES),  # Rome: model 0x31
        (0x00870F10, Generation.SNP),  # family 0x17, model 0x71: not known
        (0x00A00F11, Generation.SNP),  # Milan
        (0x00A10F11, Generation.SNP),  # Genoa
        (0x00B00F21, Generation.SNP),  # Turin
        (0x000306A9, Generation.SNP),  # not AMD's: not known
        (failure(errno.EIO), Generation.SNP),
    ],
)
def test_the_processors_own_generation(signature: Any, generation: Generation) -> None:
    leaf = signature if isinstance(signature, OSError) else (signature, 0, 0, 0)
    assert detect_generation(GOOD.with_leaf(0x80000001, leaf)) is generation


registers = st.integers(0, 0xFFFF_FFFF)
leaf_values = st.tuples(registers, registers, registers, registers) | st.builds(failure, st.integers(1, 40))
texts = st.text(max_size=8) | st.builds(failure, st.integers(1, 40))


@given(
    st.dictionaries(st.sampled_from([*GOOD.leaves, 0x40000000]), leaf_values),
    st.integers(0, 2**64 - 1) | st.builds(failure, st.integers(1, 40)),
    st.dictionaries(st.sampled_from(list(GOOD.files)), texts),
    st.sampled_from(Generation),
)
def test_any_machine_gets_one_outcome_per_test(
    leaves: dict[int, Any], syscfg: Any, files: dict[str, Any], generation: Generation
) -> None:
    host = replace(GOOD, leaves={**GOOD.leaves, **leaves}, syscfg=syscfg, files={**GOOD.files, **files})
    outcomes = check_host(host, generation)

    def count(tests: tuple[Test, ...]) -> int:
        return sum(1 + count(test.children) for test in tests)

    found = [one for _, one in flatten(outcomes)]
    assert len(found) == count(TESTS)
    assert all(one.remedy for one in found if one.state == "FAIL")
    assert passed(outcomes) == all(one.state != "FAIL" for one in found)


def test_this_machine_answers() -> None:
    outcomes = check_host(RealHost(), Generation.SNP)
    assert outcomes[0].name == "AMD CPU"
    assert {one.state for _, one in flatten(outcomes)} <= {"PASS", "FAIL", "SKIP"}
    soft, hard = RealHost().memlock()
    assert 0 <= soft <= hard


def test_this_machines_device_files(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from sealpod.platform import hostprobe

    register = tmp_path / "msr"
    monkeypatch.setattr(hostprobe, "MSR_DEVICE", str(register))
    with pytest.raises(FileNotFoundError):
        RealHost().msr(16)
    register.write_bytes(bytes(16) + (0b111 << 23).to_bytes(8, "little"))
    assert RealHost().msr(16) == 0b111 << 23
    with pytest.raises(OSError, match="less than a register"):
        RealHost().msr(20)
    monkeypatch.setattr(hostprobe, "KVM_DEVICE", str(register))
    with pytest.raises(OSError):
        RealHost().kvm_api_version()
    RealHost().open(str(register), "write")
    with pytest.raises(FileNotFoundError):
        RealHost().open(str(tmp_path / "sev"), "read")
    (tmp_path / "text").write_text(" Y\n")
    assert RealHost().text(str(tmp_path / "text")) == "Y"
