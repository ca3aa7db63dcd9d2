# SPDX-License-Identifier: Apache-2.0
"""The SEV platform of this machine: Linux' ``/dev/sev`` for its owner, QEMU's ``sev-guest`` for its guests.

``ioctls`` packs what the kernel's interface takes, ``node`` is the open device, ``failures`` gives errors
names; ``properties`` and ``replies`` are QEMU's side; ``platform`` and ``launch`` are the port.

It is written after the kernel's and QEMU's interfaces and tested against scripted ones. It has not met
silicon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sealpod.platform.port import Platform

DEVICE = "/dev/sev"


async def open_device(path: str = DEVICE, *, chain_file: str | None = None) -> Platform:
    """The platform behind ``/dev/sev``.

    ``chain_file`` holds its whole certificate chain (``sealpod sev export --full``); None means
    ``/opt/sev/cert_chain.cert``, where Kata has it.

    :raise NotFoundError: there is no such device.
    :raise AccessError: it is closed to this user.
    """
    from sealpod.platform.device.platform import start

    return await start(path, chain_file=chain_file)
