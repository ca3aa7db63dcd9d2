# SPDX-License-Identifier: Apache-2.0
"""How many processors a pod's guest has, and how many its kernel is told of, by release.

Both are measured: the first as register pages (SEV-ES, SEV-SNP), the second as ``nr_cpus=`` on the command
line. Both are bounded by the host's: in Kata ``default_vcpus`` and ``default_maxvcpus`` before a pod's limits
are added (``katautils/config.go``, ``oci/utils.go``), in this project's runtime the sum. A count that is the
host's own cannot be foretold without it and is refused.
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


def sizes(settings: Settings, keys: GuestKeys, milli_cpus: int, release: Release, node: int = 0) -> Sizes:
    """The sizes of a pod whose containers may use ``milli_cpus`` thousandths of a processor; 0: no limit.

    ``node``: processors of its host; 0 when they are not known, then it is taken to have enough.

    :raise UsageError: they depend on the host; code ``measure.host-dependent``.
    """
    if settings.vcpus < 0 and not node:
        raise _depends("default_vcpus = -1")
    most = min(node or MAX_CPUS, MAX_CPUS)
    vcpus = most if settings.vcpus < 0 else min(settings.vcpus, most)
    if release is Release.SEALPOD or keys.static_sizes:
        vcpus += math.ceil(milli_cpus / _MILLI)
    if release is Release.SEALPOD:
        vcpus = min(vcpus, settings.max_vcpus or SEALPOD_CPUS, SEALPOD_CPUS, most)
    vcpus = max(1, min(vcpus, MAX_CPUS))
    if release is Release.KATA_3_19_1 and not keys.static_sizes:
        if not settings.max_vcpus and not node:
            raise _depends("default_maxvcpus = 0 without static_sandbox_resource_mgmt")
        return Sizes(vcpus, min(settings.max_vcpus or most, most))
    return Sizes(vcpus, vcpus)


def with_vcpus(settings: Settings, keys: GuestKeys, vcpus: int, release: Release, node: int = 0) -> Sizes:
    """The sizes of a guest that has ``vcpus`` processors, whatever its pod says.

    :raise UsageError: the number on the command line depends on the host.
    """
    if release is Release.KATA_3_19_1 and not keys.static_sizes:
        return Sizes(vcpus, sizes(settings, keys, 0, release, node).nr_cpus)
    return Sizes(vcpus, vcpus)


def _depends(why: str) -> UsageError:
    return UsageError(
        f"the guest's number of processors depends on its host ({why})",
        code="measure.host-dependent",
        remedy="give --node-cpus, the number that host has, or fixed numbers in the configuration",
    )
