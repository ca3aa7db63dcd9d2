# SPDX-License-Identifier: Apache-2.0
"""Time of day that does not go back.

Launches and connections end by the time of day, because replicas and restarts share nothing else. When an
operator or a time server sets the clock back, what had ended must not begin again, and what is in progress
must not live longer by that much.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class SteadyClock:
    """Seconds since the epoch: the wall clock's, or what has passed since the last look if that is more.

    A clock set back is thus ignored until it has caught up. One set forward is believed, as it must be: it
    may be the correction of a clock that was wrong.
    """

    def __init__(self, wall: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._ahead = wall() - monotonic()

    def __call__(self) -> float:
        with self._lock:
            passed = self._monotonic()
            self._ahead = max(self._ahead, self._wall() - passed)
            return passed + self._ahead
