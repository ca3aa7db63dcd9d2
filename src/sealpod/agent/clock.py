# SPDX-License-Identifier: Apache-2.0
"""The guest's clock, as the host sets it. Nothing that matters for trust is decided by it."""

from __future__ import annotations

import time
from typing import Final

from sealpod.errors import OperationError, UsageError

LAST: Final = 1 << 33
"""Seconds since 1970: the year 2242. Beyond, the kernel's own limits come near."""


def set_time(seconds: int, microseconds: int) -> None:
    """Raises :class:`UsageError` (``sandbox.time``) for what is no point in time."""
    if not 0 <= microseconds < 1_000_000 or not 0 <= seconds < LAST:
        raise UsageError("this is no point in time", code="sandbox.time")
    try:
        time.clock_settime_ns(time.CLOCK_REALTIME, seconds * 1_000_000_000 + microseconds * 1000)
    except OSError as exc:
        raise OperationError(f"the clock cannot be set: {exc.strerror}", code="sandbox.time") from exc
