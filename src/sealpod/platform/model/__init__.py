# SPDX-License-Identifier: Apache-2.0
"""The software SEV platform: a firmware in a process of its own, and its client.

``chip``, ``identity``, ``guests``, ``firmware``, ``launching`` and ``commands`` are the firmware, a pure
state machine; ``store`` and ``server`` make a process of it; ``channel`` and ``client`` are the other end.

It protects nothing: the host reads a model guest's memory. Its certificates end in an ARK of its own, which
a key broker refuses unless its operator names that ARK, and everything printed about it says ``model``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from sealpod.platform.port import Platform


async def open_model(state_dir: str, *, progress: Callable[[str], None] | None = None) -> Platform:
    """Start the software firmware kept in ``state_dir`` and initialise it.

    ``progress`` is told when the first use makes the platform's keys, which takes some seconds.

    :raise FirmwareError: INIT failed; 0x18 when the state directory is corrupt.
    :raise AccessError: the state directory is open to others.
    :raise UnavailableError: the process died or does not answer.
    """
    # Late, because the process itself imports this package and needs no event loop.
    from sealpod.platform.model.client import start

    return await start(state_dir, progress=progress)
