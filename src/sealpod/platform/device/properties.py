# SPDX-License-Identifier: Apache-2.0
"""What QEMU is told of an SEV guest: the ``sev-guest`` object and the machine's properties. Pure.

The files' contents are base64. The policy is written in decimal, as Kata writes it.
"""

from __future__ import annotations

from typing import Final

from sealpod.platform.device.cpuid import Encryption
from sealpod.platform.port import QemuNeeds
from sealpod.sev.policy import Policy, PolicyFlag

OBJECT: Final = "sev"
ACCELERATOR: Final = "kvm"
DEFAULT_DEVICE: Final = "/dev/sev"
_VM_TYPE_SINCE: Final = (9, 1)
"""QEMU version from which an SEV-ES guest's VM type, and with it its digest, is a choice."""


def sev_guest(
    policy: Policy,
    host: Encryption,
    qemu: tuple[int, int],
    *,
    files: tuple[str, str] | None,
    kernel_hashes: bool,
    device: str = DEFAULT_DEVICE,
) -> QemuNeeds:
    """For a guest under ``policy``. ``files``: the owner's certificate and session; ``qemu``: its version."""
    properties = [
        "sev-guest",
        f"id={OBJECT}",
        f"cbitpos={host.cbitpos}",
        f"reduced-phys-bits={host.reduced}",
        f"policy={policy.value}",
    ]
    if files is not None:
        properties += [f"dh-cert-file={_escape(files[0])}", f"session-file={_escape(files[1])}"]
    if kernel_hashes:
        properties.append("kernel-hashes=on")
    if device != DEFAULT_DEVICE:
        properties.append(f"sev-device={_escape(device)}")
    es = PolicyFlag.ES in policy.flags
    if es and qemu >= _VM_TYPE_SINCE:
        # The other type starts vCPUs with another FPU, and the digest is no longer the one that is promised.
        properties.append("legacy-vm-type=on")
    return QemuNeeds(
        machine=("kernel_irqchip=split", f"confidential-guest-support={OBJECT}"),
        arguments=("-object", ",".join(properties)),
        accelerator=ACCELERATOR,
        confidential=True,
        hidden_registers=es,
    )


def _escape(path: str) -> str:
    # In QEMU's key=value lists a comma is written twice.
    return path.replace(",", ",,")
