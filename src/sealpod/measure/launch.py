# SPDX-License-Identifier: Apache-2.0
"""Measure a guest in any mode: one function for the command line, the sandbox and everyone else.

Parts that come from files are asked for when their turn comes, so that of several faults the first is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from sealpod.errors import OperationError, UsageError
from sealpod.measure.digest import seves_running
from sealpod.measure.firmware import Firmware
from sealpod.measure.hashes import HashesTable
from sealpod.measure.ovmf import Bytes
from sealpod.measure.snp import FOUR_GIB, Step, snp_steps, svsm_steps
from sealpod.measure.svsm import svsm_vmsa_pages
from sealpod.measure.vmsa import Fpu, Vmm, vmsa_pages
from sealpod.record import Record

SEV: Final = "sev"
SEV_ES: Final = "seves"
SNP: Final = "snp"
SNP_SVSM: Final = "snp:svsm"

Table = Callable[[], HashesTable]


class Vcpus(Record):
    """How many vCPUs, one digest for each count; and what they start with."""

    counts: tuple[int, ...] = ()
    """Ascending; 0 is a guest no vCPU of which is measured."""
    signature: int = 0
    vmm: Vmm = Vmm.QEMU
    features: int = 0
    fpu: Fpu = Fpu.LEGACY

    @property
    def most(self) -> int:
        """The largest count."""
        return max(self.counts, default=0)

    def pages(self, reset_eip: int) -> Iterator[bytes]:
        """VMSA pages for the largest count."""
        return vmsa_pages(
            self.most,
            reset_eip,
            signature=self.signature,
            vmm=self.vmm,
            features=self.features,
            fpu=self.fpu,
        )


class Launch(Record):
    """What was measured: digests, and what they came from."""

    mode: str
    firmware: bytes
    """SHA-256 of the image; with SEV-SNP, the chain after its pages."""
    hashes: HashesTable | None
    digests: tuple[tuple[int | None, bytes], ...]
    """vCPU count and digest; None in mode sev, where vCPUs are not measured."""
    steps: tuple[Step, ...] = ()
    """The SEV-SNP chain."""
    pages: tuple[bytes, ...] = ()
    """The VMSA page of each vCPU."""


def measure_sev(firmware: Firmware, table: Table | None) -> Launch:
    """Mode sev: no vCPU is measured.

    :raise OperationError: a kernel for a firmware that cannot check it, code ``measure.no-hash-table``.
    """
    running = firmware.sha256()
    alone = running.digest()
    hashes = _checked(firmware, table)
    running.update(b"" if hashes is None else hashes.encode())
    return Launch(SEV, alone, hashes, ((None, running.digest()),))


def measure_seves(firmware: Firmware, table: Table | None, vcpus: Vcpus) -> Launch:
    """Mode seves.

    :raise OperationError: as in mode sev; or the firmware does not say where further vCPUs start.
    """
    running = firmware.sha256()
    alone = running.digest()
    hashes = _checked(firmware, table)
    pages = tuple(vcpus.pages(firmware.ovmf.reset_eip))
    running.update(b"" if hashes is None else hashes.encode())
    wanted = set(vcpus.counts)
    digests = [pair for pair in enumerate(seves_running(running, pages)) if pair[0] in wanted]
    return Launch(SEV_ES, alone, hashes, tuple(digests), pages=pages)


def measure_snp(firmware: Firmware, table: Table | None, vcpus: Vcpus) -> Launch:
    """Mode snp.

    :raise OperationError: a kernel for a firmware that cannot check it; no address for further vCPUs.
    :raise DecodeError: a firmware not of whole pages, or metadata that cannot be measured.
    """
    hashes: list[HashesTable] = []
    pages: list[bytes] = []

    def encoded(table: Table) -> bytes:
        hashes.append(table())
        return hashes[0].encode()

    def started() -> list[bytes]:
        pages.extend(vcpus.pages(firmware.ovmf.reset_eip))
        return pages

    asked = None if table is None else lambda: encoded(table)
    steps = tuple(snp_steps(firmware.snp_hash, firmware.ovmf, asked, started, vcpus.vmm))
    found = hashes[0] if hashes else None
    return Launch(SNP, steps[0].ld, found, _digests(vcpus, steps), steps, tuple(pages))


def measure_svsm(firmware: Firmware, svsm: Callable[[], Bytes], vars_size: int, vcpus: Vcpus) -> Launch:
    """Mode snp:svsm: no kernel is measured, and the vCPUs start in the SVSM.

    :raise UsageError: another hypervisor than QEMU.
    :raise OperationError: not an SVSM image.
    :raise DecodeError: as in mode snp.
    """
    if vcpus.vmm is not Vmm.QEMU:
        raise UsageError("SVSM mode is only implemented for Qemu.", code="measure.vmm")
    pages: list[bytes] = []

    def started(eip: int) -> list[bytes]:
        pages.extend(svsm_vmsa_pages(vcpus.most, eip, signature=vcpus.signature))
        return pages

    end = FOUR_GIB - firmware.ovmf.size - vars_size
    steps = tuple(svsm_steps(firmware.snp_hash, end, svsm(), started))
    return Launch(SNP_SVSM, steps[0].ld, None, _digests(vcpus, steps), steps, tuple(pages))


def _digests(vcpus: Vcpus, steps: tuple[Step, ...]) -> tuple[tuple[int, bytes], ...]:
    """The chain's digest where it has met so many vCPUs."""
    first = len(steps) - vcpus.most
    return tuple((count, steps[first + count - 1].ld) for count in vcpus.counts)


def _checked(firmware: Firmware, table: Table | None) -> HashesTable | None:
    if table is None:
        return None
    # A table too small is not asked about: sev-snp-measure does not, and QEMU refuses to start there.
    if not firmware.ovmf.table_base:
        raise OperationError(
            "Kernel specified but OVMF doesn't support kernel/initrd/cmdline measurement",
            code="measure.no-hash-table",
            remedy="use the AmdSev build of OVMF (OvmfPkg/AmdSev/AmdSevX64)",
        )
    return table()
