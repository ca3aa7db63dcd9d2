# SPDX-License-Identifier: Apache-2.0
"""The launch digest of SEV-SNP, step by step: firmware, the sections of its metadata, one VMSA per vCPU.

QEMU's order. Sections come in the image's order, which differs between builds::

    kind  name               what is measured
       1  SNP_SEC_MEM        zero pages; unmeasured ones on GCE
       2  SNP_SECRETS        one secrets page, whatever the size
       3  CPUID              one CPUID page, whatever the size; on EC2 after all other sections
       4  SVSM_CAA           zero pages
    0x10  SNP_KERNEL_HASHES  the page with the hashes table in it; zero pages without a kernel

The vCPUs come last, so the digests for all vCPU counts fall out of one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from sealpod.errors import DecodeError, OperationError
from sealpod.measure.gctx import Gctx
from sealpod.measure.hashes import TABLE_SIZE
from sealpod.measure.ovmf import Bytes, Ovmf, Section
from sealpod.measure.vmsa import PAGE_SIZE, Vmm
from sealpod.record import Record

FOUR_GIB: Final = 1 << 32
"""Where a firmware image ends in the guest."""
MAX_SECTION_BYTES: Final = 1 << 30
"""Of all sections together. OVMF's take 2 MiB; every page is a link of the chain."""

SEC_MEM: Final = 1
SECRETS: Final = 2
CPUID: Final = 3
SVSM_CAA: Final = 4
KERNEL_HASHES: Final = 0x10

SECTION_NAMES: Final = {
    SEC_MEM: "SNP_SEC_MEM",
    SECRETS: "SNP_SECRETS",
    CPUID: "CPUID",
    SVSM_CAA: "SVSM_CAA",
    KERNEL_HASHES: "SNP_KERNEL_HASHES",
}


class Step(Record):
    """One step of a launch and the digest after it: firmware, svsm, a section, or a vCPU."""

    name: str
    ld: bytes
    section: Section | None = None
    vcpu: int | None = None


def snp_ovmf_hash(firmware: Bytes) -> bytes:
    """The chain after the firmware's pages: what stands for the firmware where it is not at hand.

    :raise DecodeError: not whole pages.
    """
    gctx = Gctx()
    gctx.normal(FOUR_GIB - len(firmware), firmware)
    return gctx.ld


def snp_steps(
    firmware_hash: Callable[[], bytes],
    ovmf: Ovmf,
    table: Callable[[], bytes] | None,
    pages: Callable[[], Iterable[bytes]],
    vmm: Vmm = Vmm.QEMU,
) -> Iterator[Step]:
    """The steps of a launch; the last one's digest is the guest's.

    The parts are asked for when their turn comes, so that of several faults the first one is told.
    ``firmware_hash`` gives :func:`snp_ovmf_hash`, ``table`` the 176-byte hashes table (None: no kernel).

    :raise DecodeError: the metadata has a section of an unknown kind, or of no size it can have.
    :raise OperationError: a kernel for a firmware that cannot check it.
    """
    gctx = Gctx(firmware_hash())
    yield Step("firmware", gctx.ld)
    yield from _sections(gctx, ovmf, None if table is None else table(), vmm)
    yield from _vcpus(gctx, pages())


def svsm_steps(
    firmware_hash: Callable[[], bytes],
    end: int,
    svsm: Bytes,
    pages: Callable[[int], Iterable[bytes]],
) -> Iterator[Step]:
    """The steps of a launch with an SVSM below firmware and variables; its metadata counts, not OVMF's.

    ``end`` is where the SVSM ends, ``pages`` gives the vCPUs' VMSA pages for the address they start at.

    :raise OperationError: the SVSM image does not say where its vCPUs start.
    :raise DecodeError: as :func:`snp_steps`, or the images do not fit below 4 GiB.
    """
    image = Ovmf.parse(svsm, "SVSM")
    base = end - len(svsm)
    if base < 0:
        raise DecodeError("firmware, variables and SVSM do not fit below 4 GiB", code="ovmf.size")
    if image.svsm_entry is None:
        raise OperationError(
            "Can't find SVSM_INFO_GUID entry in SVSM table",
            code="measure.no-svsm-info",
            remedy="check that --svsm names an SVSM image",
        )
    gctx = Gctx(firmware_hash())
    yield Step("firmware", gctx.ld)
    gctx.normal(base, svsm)
    yield Step("svsm", gctx.ld)
    yield from _sections(gctx, image, None, Vmm.QEMU)
    yield from _vcpus(gctx, pages(base + image.svsm_entry))


def _vcpus(gctx: Gctx, pages: Iterable[bytes]) -> Iterator[Step]:
    for vcpu, page in enumerate(pages):
        gctx.vmsa(page)
        yield Step("vcpu", gctx.ld, vcpu=vcpu)


def _sections(gctx: Gctx, ovmf: Ovmf, table: bytes | None, vmm: Vmm) -> Iterator[Step]:
    _check_extent(ovmf.sections)
    last = []
    for section in ovmf.sections:
        if section.kind == CPUID and vmm is Vmm.EC2:
            last.append(section)
            continue
        _section(gctx, ovmf, section, table, vmm)
        yield Step("section", gctx.ld, section)
    for section in last:
        gctx.cpuid(section.gpa)
        yield Step("section", gctx.ld, section)
    if table is not None and all(section.kind != KERNEL_HASHES for section in ovmf.sections):
        raise OperationError(
            "Kernel specified but OVMF metadata doesn't include SNP_KERNEL_HASHES section",
            code="measure.no-hash-section",
            remedy="use the AmdSev build of OVMF (OvmfPkg/AmdSev/AmdSevX64), not OvmfPkgX64",
        )


def _section(gctx: Gctx, ovmf: Ovmf, section: Section, table: bytes | None, vmm: Vmm) -> None:
    if section.kind == SEC_MEM and vmm is Vmm.GCE:
        gctx.unmeasured(section.gpa, section.size)
    elif section.kind == SECRETS:
        gctx.secrets(section.gpa)
    elif section.kind == CPUID:
        gctx.cpuid(section.gpa)
    elif section.kind == KERNEL_HASHES and table is not None:
        gctx.normal(section.gpa, hashes_page(ovmf, section, table))
    elif section.kind in SECTION_NAMES:
        gctx.zero(section.gpa, section.size)
    else:
        raise DecodeError(
            f"OVMF image: {section.kind} is not a valid SectionType",
            code="ovmf.section",
            remedy="this firmware is newer than this sealpod, or damaged",
        )


def hashes_page(ovmf: Ovmf, section: Section, table: bytes) -> bytes:
    """The page that holds the hashes table, where the firmware looks for it.

    :raise OperationError: the image does not say where that is.
    :raise DecodeError: the table does not fit there.
    """
    if ovmf.table_base is None:
        raise OperationError(
            "Can't find SEV_HASH_TABLE_RV_GUID entry in OVMF table",
            code="measure.no-hash-table",
            remedy="use the AmdSev build of OVMF (OvmfPkg/AmdSev/AmdSevX64)",
        )
    offset = ovmf.table_base % PAGE_SIZE
    if section.size != PAGE_SIZE or offset + TABLE_SIZE > PAGE_SIZE:
        raise DecodeError(
            f"OVMF image: the hashes table at {ovmf.table_base:#x} does not fit into a section of "
            f"{section.size:#x} bytes",
            code="ovmf.section",
        )
    return (bytes(offset) + table).ljust(PAGE_SIZE, b"\0")


def _check_extent(sections: Iterable[Section]) -> None:
    extent = sum(section.size for section in sections)
    if extent > MAX_SECTION_BYTES:
        raise DecodeError(
            f"OVMF image: its sections span {extent} bytes, more than {MAX_SECTION_BYTES}",
            code="ovmf.section",
        )
