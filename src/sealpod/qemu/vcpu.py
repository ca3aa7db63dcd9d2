# SPDX-License-Identifier: Apache-2.0
"""The CPUID signature of the vCPUs a guest gets: part of what SEV-ES measures of each of them.

It follows from the CPU model (:func:`sealpod.qemu.arguments.cpu_model`): under TCG ``qemu64``, the same on
every machine; under KVM the host's own, so that a guest owner has to know the host's processor.
"""

from __future__ import annotations

import re
from typing import Final

from sealpod.errors import OperationError
from sealpod.measure.vcpu import signature

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
