# SPDX-License-Identifier: Apache-2.0
"""Read the measured files of a pod once: components, hashes table, and where the firmware wants things."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sealpod.errors import DecodeError, NotFoundError
from sealpod.measure.components import Components
from sealpod.measure.hashes import HashesTable
from sealpod.measure.ovmf import Area, Ovmf
from sealpod.sandbox.cmdline import GuestSettings, compose
from sealpod.sandbox.network import from_guest
from sealpod.sandbox.spec import PodSpec


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
    settings = GuestSettings(
        cpus=spec.cpus,
        kbc=spec.kbc,
        kbs=from_guest(spec.kbs) if spec.kbs else "",
        insecure_registries=spec.insecure_registries,
        debug=spec.debug,
        extra=spec.extra_cmdline,
    )
    return compose(settings)


async def read_inputs(spec: PodSpec) -> LaunchInputs:
    """Hash the files. Raises NotFoundError for a missing one, DecodeError for an unfit firmware."""
    return await asyncio.to_thread(_read, spec)


def _read(spec: PodSpec) -> LaunchInputs:
    cmdline = command_line(spec)
    firmware = _file(spec.files.firmware, "firmware")
    kernel = _file(spec.files.kernel, "kernel")
    initrd = _file(spec.files.initrd, "initrd")
    ovmf = Ovmf.parse(firmware)
    if not ovmf.hash_table or not ovmf.secret_block:
        raise DecodeError(
            f"the firmware {spec.files.firmware} has no area for kernel hashes and launch secret",
            code="firmware.unfit",
            remedy="use the AmdSev build of OVMF (package ovmf-amdsev)",
        )
    return LaunchInputs(
        components=Components.of(firmware, kernel, initrd, cmdline),
        cmdline=cmdline,
        hashes=HashesTable.of(kernel, initrd, cmdline).encode(),
        hash_area=ovmf.hash_table,
        secret_area=ovmf.secret_block,
        firmware_size=len(firmware),
    )


def _file(path: str, what: str) -> bytes:
    try:
        with open(path, "rb") as source:
            return source.read()
    except OSError as error:
        raise NotFoundError(
            f"the guest's {what} {path} cannot be read: {error.strerror}",
            code="guest.missing",
            remedy="run `sealpod guest build`",
        ) from error
