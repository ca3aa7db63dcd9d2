# SPDX-License-Identifier: Apache-2.0
"""The vCPUs a guest gets: their CPUID signature, which SEV-ES measures of each of them, and their threads.

The signature follows from the CPU model (:func:`sealpod.qemu.arguments.cpu_model`): under TCG ``qemu64``, the
same on every machine; under KVM the host's own, so that a guest owner has to know the host's processor.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sealpod.errors import OperationError
from sealpod.measure.vcpu import signature

if TYPE_CHECKING:
    from sealpod.qemu.machine import Machine

CPUINFO: Final = "/proc/cpuinfo"
EMULATED_SIGNATURE: Final = signature(15, 107, 1)
"""QEMU's ``qemu64``: 0x60fb1."""
_FIELDS: Final = ("cpu family", "model", "stepping")


def vcpu_signature(accelerator: str, *, cpuinfo: str = CPUINFO) -> int:
    """The signature of a guest's vCPUs under ``kvm`` or ``tcg``.

    :raise OperationError: the kernel does not say what the host's processor is.
    """
    if accelerator != "kvm":
        return EMULATED_SIGNATURE
    try:
        with open(cpuinfo, encoding="utf-8", errors="replace") as source:
            text = source.read(1 << 20)
    except OSError as error:
        raise _unknown(f"{cpuinfo}: {error.strerror}") from error
    values = [re.search(rf"^{name}\s*: (\d{{1,9}})$", text, re.MULTILINE) for name in _FIELDS]
    family, model, stepping = (None if found is None else int(found[1]) for found in values)
    if family is None or model is None or stepping is None:
        raise _unknown(f"{cpuinfo} names no {', '.join(_FIELDS)}")
    return signature(family, model, stepping)


def _unknown(reason: str) -> OperationError:
    return OperationError(f"cannot tell the host's processor: {reason}", code="qemu.host-cpu")


async def vcpu_threads(machine: Machine) -> tuple[int, ...]:
    """The threads of QEMU that are the guest's processors. Raises LaunchError when QEMU does not say."""
    answer = await machine.qmp("query-cpus-fast")
    entries = answer if isinstance(answer, list) else []
    found = [one.get("thread-id") for one in entries if isinstance(one, dict)]
    threads = tuple(one for one in found if isinstance(one, int) and one > 0)
    if not threads:
        raise machine.failure("QEMU names no threads of the guest's processors")
    return threads
