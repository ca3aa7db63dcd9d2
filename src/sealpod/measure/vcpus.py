# SPDX-License-Identifier: Apache-2.0
"""The vCPUs of a guest whose registers are measured: how many, and what they start with."""

from __future__ import annotations

from collections.abc import Iterator

from sealpod.measure.vmsa import Fpu, Vmm, vmsa_pages
from sealpod.record import Record


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
