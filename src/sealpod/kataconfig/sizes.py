# SPDX-License-Identifier: Apache-2.0
"""How many processors a pod's guest has, and how many its kernel is told of, by release.

Both are measured: the first as register pages (SEV-ES, SEV-SNP), the second as ``nr_cpus=`` on the command
line. A count that depends on the host's own number of processors cannot be foretold and is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from sealpod.errors import UsageError
from sealpod.kataconfig.annotations import MAX_CPUS
from sealpod.kataconfig.commandline import GuestKeys, Release
from sealpod.kataconfig.settings import Settings

SEALPOD_CPUS: Final = 64
"""The most processors this project's runtime gives a guest."""
_MILLI: Final = 1000


@dataclass(frozen=True, slots=True)
class Sizes:
    """Processors at boot, and the number on the command line."""

    vcpus: int
    nr_cpus: int


def sizes(settings: Settings, keys: GuestKeys, milli_cpus: int, release: Release) -> Sizes:
    """The sizes of a pod whose containers may use ``milli_cpus`` thousandths of a processor; 0: no limit.

    :raise UsageError: they depend on the host; code ``measure.host-dependent``.
    """
    if settings.vcpus < 0:
        raise _depends("default_vcpus = -1")
    vcpus = settings.vcpus
    if release is Release.SEALPOD or (release is not Release.CC_0_3_0 and keys.static_sizes):
        vcpus += math.ceil(milli_cpus / _MILLI)
    if release is Release.SEALPOD:
        vcpus = min(vcpus, settings.max_vcpus or SEALPOD_CPUS, SEALPOD_CPUS)
    vcpus = max(1, min(vcpus, MAX_CPUS))
    if release is Release.KATA_3_19_1 and not keys.static_sizes:
        if not settings.max_vcpus:
            raise _depends("default_maxvcpus = 0 without static_sandbox_resource_mgmt")
        return Sizes(vcpus, min(settings.max_vcpus, MAX_CPUS))
    return Sizes(vcpus, vcpus)


def with_vcpus(settings: Settings, keys: GuestKeys, vcpus: int, release: Release) -> Sizes:
    """The sizes of a guest that has ``vcpus`` processors, whatever its pod says.

    :raise UsageError: the number on the command line depends on the host.
    """
    if release is Release.KATA_3_19_1 and not keys.static_sizes:
        return Sizes(vcpus, sizes(settings, keys, 0, release).nr_cpus)
    return Sizes(vcpus, vcpus)


def _depends(why: str) -> UsageError:
    return UsageError(
        f"the guest's number of processors depends on its host ({why})",
        code="measure.host-dependent",
        remedy="give --vcpus, or fixed numbers in the configuration",
    )
