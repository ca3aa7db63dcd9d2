# SPDX-License-Identifier: Apache-2.0
"""Measure a guest of SEV-SNP, with or without an SVSM below it."""

from __future__ import annotations

from collections.abc import Callable

from sealpod.errors import UsageError
from sealpod.measure.firmware import Firmware
from sealpod.measure.hashes import HashesTable
from sealpod.measure.ovmf import Bytes
from sealpod.measure.sevlaunch import SNP, SNP_SVSM, Launch, Table
from sealpod.measure.snp import FOUR_GIB, Step, snp_steps, svsm_steps
from sealpod.measure.svsm import svsm_vmsa_pages
from sealpod.measure.vcpus import Vcpus
from sealpod.measure.vmsa import Vmm


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
