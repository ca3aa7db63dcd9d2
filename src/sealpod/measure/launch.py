# SPDX-License-Identifier: Apache-2.0
"""Measure a guest in any mode: the names for who does not mind importing all of them."""

from __future__ import annotations

from sealpod.measure.sevlaunch import SEV, SEV_ES, SNP, SNP_SVSM, Launch, Table, measure_sev, measure_seves
from sealpod.measure.snplaunch import measure_snp, measure_svsm
from sealpod.measure.vcpus import Vcpus

__all__ = [
    "SEV",
    "SEV_ES",
    "SNP",
    "SNP_SVSM",
    "Launch",
    "Table",
    "Vcpus",
    "measure_sev",
    "measure_seves",
    "measure_snp",
    "measure_svsm",
]
