# SPDX-License-Identifier: Apache-2.0
"""Remove a pod's control groups, by those who made them or from the record of those who could not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from sealpod.sandbox import cgroupfs, systemdscope


def remove(directories: Sequence[str], unit: str) -> list[str]:
    """End whoever is in there, remove the groups; those that stay. ``unit``: of systemd's, or empty."""
    if unit:
        cgroupfs.kill(directories)
        systemdscope.stop(unit)
    return cgroupfs.remove(directories)


def remove_recorded(record: dict[str, Any]) -> None:
    """Remove the control groups of a sandbox's record."""
    groups = record.get("cgroups")
    if not isinstance(groups, dict):
        return
    directories, unit = groups.get("directories"), groups.get("unit")
    if isinstance(directories, list):
        found = [one for one in directories if isinstance(one, str) and os.path.isabs(one)]
        remove(found, unit if isinstance(unit, str) else "")
