# SPDX-License-Identifier: Apache-2.0
"""Measure a guest of SEV or SEV-ES; what any measured guest comes to.

Parts that come from files are asked for when their turn comes, so that of several faults the first is told.
SEV-SNP is :mod:`sealpod.measure.snplaunch`: who measures in one mode need not import the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sealpod.errors import OperationError
from sealpod.measure.digest import seves_running
from sealpod.measure.firmware import Firmware
from sealpod.measure.hashes import HashesTable
from sealpod.record import Record

if TYPE_CHECKING:
    from sealpod.measure.snp import Step
    from sealpod.measure.vcpus import Vcpus

SEV: Final = "sev"
SEV_ES: Final = "seves"
SNP: Final = "snp"
SNP_SVSM: Final = "snp:svsm"

Table = Callable[[], HashesTable]


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
