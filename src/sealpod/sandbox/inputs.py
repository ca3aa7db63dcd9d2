# SPDX-License-Identifier: Apache-2.0
"""Read the measured files of a pod once: components, hashes table, and where the firmware wants things.

With SEV-ES the vCPUs are measured as well: as many as the pod has, each with the page QEMU's ``sev-guest``
gives it on KVM's legacy VM type, which is QEMU's default.

Kernel and initrd are hashed piece by piece: a process that outlives the launch would keep the memory their
34 MB took.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from sealpod.errors import DecodeError
from sealpod.measure.components import Components
from sealpod.measure.firmware import Firmware
from sealpod.measure.hashes import HashesTable, cmdline_hash
from sealpod.measure.ovmf import Area
from sealpod.measure.sevlaunch import measure_sev, measure_seves
from sealpod.measure.vcpus import Vcpus
from sealpod.sandbox.cmdline import GuestSettings, compose
from sealpod.sandbox.measuredfiles import hash_file, open_file
from sealpod.sandbox.network import from_guest
from sealpod.sandbox.spec import PodSpec
from sealpod.sev.policy import PolicyFlag


@dataclass(frozen=True, slots=True)
class LaunchInputs:
    """What a launch needs of the files. ``hashes`` is the 176-byte table."""

    components: Components
    cmdline: str
    hashes: bytes
    hash_area: Area
    secret_area: Area
    firmware_size: int


def command_line(spec: PodSpec) -> str:
    """The pod's kernel command line, part of the launch digest."""
    if spec.cmdline:
        return spec.cmdline
    settings = GuestSettings(
        cpus=spec.cpus,
        kbc=spec.kbc,
        kbs=from_guest(spec.kbs_guest or spec.kbs) if spec.kbs else "",
        insecure_registries=spec.insecure_registries,
        debug=spec.debug,
        extra=spec.extra_cmdline,
    )
    return compose(settings)


async def read_inputs(spec: PodSpec, signature: Callable[[], int]) -> LaunchInputs:
    """Hash the files. ``signature`` tells the vCPUs'; it is asked when the policy demands SEV-ES.

    Raises NotFoundError for a missing file, DecodeError for an unfit firmware.
    """
    vcpus = None
    if PolicyFlag.ES in spec.policy.flags:
        vcpus = Vcpus(counts=(spec.cpus,), signature=signature())
    return await asyncio.to_thread(_read, spec, vcpus)


def _read(spec: PodSpec, vcpus: Vcpus | None) -> LaunchInputs:
    cmdline = command_line(spec)
    firmware = Firmware.of(_firmware(spec.files.firmware))
    ovmf = firmware.ovmf
    if not ovmf.hash_table or not ovmf.secret_block:
        raise DecodeError(
            f"the firmware {spec.files.firmware} has no area for kernel hashes and launch secret",
            code="firmware.unfit",
            remedy="use the AmdSev build of OVMF (package ovmf-amdsev)",
        )
    table = HashesTable(
        cmdline=cmdline_hash(cmdline),
        initrd=hash_file(spec.files.initrd, "initrd"),
        kernel=hash_file(spec.files.kernel, "kernel"),
    )
    if vcpus is None:
        launch = measure_sev(firmware, lambda: table)
    else:
        launch = measure_seves(firmware, lambda: table, vcpus)
    (components,) = Components.of_launch(launch, cmdline, vcpus, spec.policy.value)
    return LaunchInputs(
        components=components,
        cmdline=cmdline,
        hashes=table.encode(),
        hash_area=ovmf.hash_table,
        secret_area=ovmf.secret_block,
        firmware_size=ovmf.size,
    )


def require_files(spec: PodSpec) -> None:
    """Raise NotFoundError unless kernel and initrd can be read (a plain guest is not hashed)."""
    for path, what in ((spec.files.kernel, "kernel"), (spec.files.initrd, "initrd")):
        open_file(path, what).close()


def _firmware(path: str) -> bytes:
    with open_file(path, "firmware") as source:
        return source.read()
