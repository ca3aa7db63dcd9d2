# SPDX-License-Identifier: Apache-2.0
"""Whether the broker can answer now: for /readyz, for gRPC's health service, for load balancers.

Alive is not ready: a broker without its database lives, and must not be restarted for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Final

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health

from sealpod.errors import SealpodError

FRESH: Final = 1.0
"""Seconds an answer serves again: probes cannot load the database."""
CHECK_LIMIT: Final = 3.0
"""Seconds a check may take; a database that hangs is not ready."""
HEALTH_PERIOD: Final = 2.0
"""Seconds between looks for those who watch gRPC's health service."""
OK: Final = "ok"
DRAINING: Final = "draining"

Check = Callable[[], None]

_logger = logging.getLogger(__name__)


class Readiness:
    """Runs the checks, one round at a time."""

    def __init__(self, checks: Mapping[str, Check], workers: Executor) -> None:
        """A check returns or raises; ``workers`` are threads that only checks use."""
        self._checks = dict(checks)
        self._workers = workers
        self._results: dict[str, str] = {}
        self._looked = float("-inf")
        self._lock = asyncio.Lock()
        self._ready = False
        self.draining = False

    async def look(self) -> tuple[bool, Mapping[str, str]]:
        """Ready or not, and each check's result: ``ok`` or why not."""
        async with self._lock:
            if time.monotonic() - self._looked > FRESH:
                results = await asyncio.gather(*(self._run(check) for check in self._checks.values()))
                self._results = dict(zip(self._checks, results, strict=True))
                self._looked = time.monotonic()
                self._tell(all(result == OK for result in results))
        if self.draining:
            return False, {**self._results, "state": DRAINING}
        return self._ready, self._results

    async def _run(self, check: Check) -> str:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CHECK_LIMIT):
                await loop.run_in_executor(self._workers, check)
        except TimeoutError:
            return "does not answer"
        except SealpodError as error:
            # The code only: a probe is not authenticated, and the log has the sentence.
            _logger.debug("not ready: %s", error.one_line())
            return error.code
        except Exception as error:  # noqa: BLE001 - a check that fails in any way is a broker that is not ready
            _logger.error("a readiness check failed on a %s", type(error).__name__)
            return "internal.error"
        return OK

    def _tell(self, ready: bool) -> None:
        if ready != self._ready:
            _logger.log(
                logging.INFO if ready else logging.WARNING,
                "ready" if ready else "not ready: %s",
                *(() if ready else (", ".join(f"{name}: {why}" for name, why in self._results.items()),)),
            )
        self._ready = ready


class HealthReporter:
    """gRPC's health service, kept up to date; it is asked under the empty name and under each service's."""

    def __init__(self, readiness: Readiness, services: tuple[str, ...]) -> None:
        self.servicer = health.HealthServicer()
        self._readiness = readiness
        self._names = ("", *services)

    async def start(self) -> None:
        """Look once, so that the first answer is true."""
        await self._set((await self._readiness.look())[0])

    async def follow(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(HEALTH_PERIOD)
            await self._set((await self._readiness.look())[0])

    async def drain(self) -> None:
        """NOT_SERVING from now on."""
        with contextlib.suppress(asyncio.CancelledError):
            await self.servicer.enter_graceful_shutdown()

    async def _set(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        for name in self._names:
            await self.servicer.set(name, status.SERVING if serving else status.NOT_SERVING)
