# SPDX-License-Identifier: Apache-2.0
"""Devices of the host, which a guest does not have: a container that is to have one is refused. Pure.

A privileged container is given every device of the host unless the runtime's configuration says
``privileged_without_host_devices``. Nobody asked for those one by one, so they are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sealpod.errors import UsageError

STANDARD: Final = frozenset(
    f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty", "console", "ptmx")
)
"""Every container has these of its own."""


def check(linux: Mapping[str, Any]) -> None:
    """Raises UsageError (``shim.device``) when the ``linux`` section asks for a device of the host."""
    if any(_is_everything(rule) for rule in (linux.get("resources") or {}).get("devices") or ()):
        return
    for device in linux.get("devices") or ():
        path = str(device.get("path") or "")
        if path not in STANDARD:
            raise UsageError(
                f"the container is to have the device {path[:140]}, and a guest has no device of the host",
                code="shim.device",
                remedy="leave the device or the block volume out of the pod",
            )


def _is_everything(rule: Mapping[str, Any]) -> bool:
    narrow = rule.get("major") is not None or rule.get("minor") is not None
    return bool(rule.get("allow")) and not narrow and rule.get("type") in (None, "", "a")
