# SPDX-License-Identifier: Apache-2.0
"""Open the platform of this machine: silicon where it can be used, the software model elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from sealpod.errors import UsageError
from sealpod.platform.model import open_model
from sealpod.platform.model.paths import default_state_dir

if TYPE_CHECKING:
    from collections.abc import Callable

    from sealpod.platform.port import Platform

PlatformChoice = Literal["auto", "device", "model"]
CHOICES: Final[tuple[PlatformChoice, ...]] = ("auto", "device", "model")


async def open_platform(
    kind: PlatformChoice, state_dir: str | None = None, *, progress: Callable[[str], None] | None = None
) -> Platform:
    """The platform of ``kind``; close it when done.

    ``auto`` is the device where ``/dev/sev`` can be used, else the model. ``state_dir`` is where a model
    keeps its keys, None for the usual place. ``progress`` takes sentences for the user.

    :raise NotFoundError: ``device``, and there is none.
    :raise AccessError: the device or the state directory is closed to this user.
    :raise FirmwareError: the firmware refuses to be initialised.
    :raise UnavailableError: the model's process died or does not answer.
    """
    if kind == "device":
        raise UsageError(
            "the driver for /dev/sev is not part of this version",
            code="platform.device",
            remedy="use --platform model",
        )
    return await open_model(state_dir or default_state_dir(), progress=progress)
