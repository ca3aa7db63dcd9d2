# SPDX-License-Identifier: Apache-2.0
"""Open the platform of this machine: silicon where it can be used, the software model elsewhere."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Literal

from sealpod.errors import SealpodError
from sealpod.platform.device import DEVICE, open_device
from sealpod.platform.model import open_model
from sealpod.platform.model.paths import default_state_dir

if TYPE_CHECKING:
    from collections.abc import Callable

    from sealpod.platform.port import Platform

PlatformChoice = Literal["auto", "device", "model"]
CHOICES: Final[tuple[PlatformChoice, ...]] = ("auto", "device", "model")


async def open_platform(
    kind: PlatformChoice,
    state_dir: str | None = None,
    *,
    progress: Callable[[str], None] | None = None,
    chain_file: str | None = None,
    device: str = DEVICE,
) -> Platform:
    """The platform of ``kind``; close it when done.

    ``auto`` is the device where there is one that answers, else the model. ``state_dir`` is where a model
    keeps its keys, ``chain_file`` has a device's whole certificate chain; None for the usual places.
    ``progress`` takes sentences for the user.

    :raise NotFoundError: ``device``, and there is none.
    :raise AccessError: the device or the state directory is closed to this user.
    :raise FirmwareError: the firmware refuses to be initialised.
    :raise UnavailableError: the model's process died or does not answer.
    """
    if kind == "device" or (kind == "auto" and os.path.exists(device)):
        try:
            return await _answering(device, chain_file)
        except SealpodError as error:
            if kind == "device":
                raise
            if progress is not None:
                progress(f"{device} cannot be used, taking the software model: {error.one_line()}")
    return await open_model(state_dir or default_state_dir(), progress=progress)


async def _answering(device: str, chain_file: str | None) -> Platform:
    platform = await open_device(device, chain_file=chain_file)
    try:
        await platform.status()
    except BaseException:
        await platform.close()
        raise
    return platform
