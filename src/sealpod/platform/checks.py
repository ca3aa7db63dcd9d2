# SPDX-License-Identifier: Apache-2.0
"""What a launch's specification must hold, whichever driver gets it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sealpod.errors import UsageError

if TYPE_CHECKING:
    from sealpod.platform.port import LaunchSpec
    from sealpod.sev.packet import Packet

TOP_OF_FLASH: Final = 4 << 30
"""Guest physical address at which the flash ends."""


def check_spec(spec: LaunchSpec) -> None:
    """Raise UsageError for parts that come without their other half."""
    if (spec.godh is None) != (spec.session is None):
        raise UsageError("the owner's key and session come together", code="platform.half-session")
    if (spec.hashes is None) != (spec.hashes_gpa is None):
        raise UsageError(
            "hashes to be measured need a place in the guest",
            code="platform.no-hashes-area",
            remedy="use an OVMF built for SEV (AmdSev), which has a hashes area",
        )
    if not 0 < spec.firmware_size <= TOP_OF_FLASH:
        raise UsageError(f"a flash of {spec.firmware_size} bytes", code="platform.flash-size")


def secret_place(spec: LaunchSpec, packet: Packet) -> int:
    """Where the packet's secret goes; UsageError when the firmware takes none, or not one of this size."""
    if spec.secret_gpa is None or spec.secret_size is None:
        raise UsageError(
            "the firmware has no launch secret area",
            code="platform.no-secret-area",
            remedy="use an OVMF built for SEV (AmdSev)",
        )
    if len(packet.data) > spec.secret_size:
        raise UsageError(
            f"the secret has {len(packet.data)} bytes, the firmware's area for it {spec.secret_size}",
            code="platform.secret-size",
            remedy="put less into the secret: fewer keys, or an online key broker client",
        )
    return spec.secret_gpa
