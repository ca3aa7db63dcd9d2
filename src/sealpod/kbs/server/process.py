# SPDX-License-Identifier: Apache-2.0
"""What runs in a broker's process: listeners in one event loop, threads for their work, chores.

Made in one go, taken down in the opposite order.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from sealpod.errors import SealpodError
from sealpod.kbs.server import database
from sealpod.kbs.server.admin.app import AdminApi, AdminParts
from sealpod.kbs.server.admission import Admission
from sealpod.kbs.server.calls import GUEST_METHODS, SERVICE
from sealpod.kbs.server.config import AdminConfig, ServerConfig
from sealpod.kbs.server.defaultpolicy import CurrentBroker
from sealpod.kbs.server.grpclistener import GrpcListener
from sealpod.kbs.server.loop import LoopThread
from sealpod.kbs.server.metrics import Metrics
from sealpod.kbs.server.ops import ops_app, ops_routes
from sealpod.kbs.server.readiness import HealthReporter, Readiness
from sealpod.kbs.server.service import Service
from sealpod.kbs.server.tls import Credentials
from sealpod.kbs.server.web import WebListener
from sealpod.kbs.server.webhook import Webhook
from sealpod.kbs.store.database import Database
from sealpod.kbs.store.retention import purge
from sealpod.secret import SecretBytes

THREADS: Final = 8
"""Calls worked on at once; they are short, and most of their time is elliptic curves."""
CHECK_THREADS: Final = 4
"""Threads of readiness checks and the admin API, which wait for the database and not for calls."""
PURGE_PERIOD: Final = 60.0
"""Seconds between removing what is past its time."""

_SEALER_PROBE: Final = b"sealpod readiness 1"

_logger = logging.getLogger(__name__)


class Process:
    """All of it."""

    grpc: GrpcListener
    guests: GrpcListener | None = None
    ops: WebListener | None = None
    admin: WebListener | None = None

    def __init__(
        self,
        config: ServerConfig,
        db: Database,
        current: CurrentBroker,
        metrics: Metrics,
        tls: Credentials | None,
        clock: Callable[[], float],
        admin: AdminParts | None,
        webhook: Webhook | None,
    ) -> None:
        self.config = config
        self.db = db
        self.current = current
        self.metrics = metrics
        self.tls = tls
        self.clock = clock
        self.webhook = webhook
        self._admin = admin
        config_admin = config.admin
        self._admin_tls = (
            None if config_admin is None or config_admin.tls is None else Credentials(config_admin.tls)
        )
        self._admission = Admission(config.rate, config.connections, time.monotonic)
        self._workers = ThreadPoolExecutor(THREADS, thread_name_prefix="kbs")
        self._checkers = ThreadPoolExecutor(CHECK_THREADS, thread_name_prefix="kbs-check")
        self._loop = LoopThread("kbs-loop")
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False

    def start(self) -> None:
        self._loop.run(self._start())

    async def _start(self) -> None:
        config = self.config
        checks = {"database": lambda: database.check_database(self.db.engine), "sealer": self._check_sealer}
        self._readiness = Readiness(checks, self._checkers)
        self._reporter = HealthReporter(self._readiness, (SERVICE,))
        service = Service(
            self.current,
            admission=self._admission,
            metrics=self.metrics,
            workers=self._workers,
            request_seconds=config.connections.request,
        )
        self.grpc = GrpcListener(
            config.listen,
            service,
            self._reporter,
            config.connections,
            credentials=self.tls,
            with_reflection=config.reflection,
        )
        if config.guest_listen is not None:
            self.guests = GrpcListener(
                config.guest_listen,
                service,
                self._reporter,
                config.connections,
                with_reflection=False,
                methods=GUEST_METHODS,
            )
        self._add_gauges()
        if config.ops_listen is not None:
            self.ops = WebListener(ops_app(self._readiness, self.metrics), config.ops_listen)
        if config.admin is not None and self._admin is not None:
            self.admin = self._admin_listener(config.admin, self._admin)
        await self._reporter.start()
        for listener in self._listeners():
            await listener.start()
        for web in self._webs():
            await web.start()
        self._follow(self._reporter.follow())
        self._follow(self._purge())

    def _admin_listener(self, config: AdminConfig, parts: AdminParts) -> WebListener:
        app = AdminApi(parts, self.metrics, self._checkers).app(ops_routes(self._readiness, self.metrics))
        tls = self._admin_tls
        return WebListener(app, config.listen, None if tls is None else tls.for_http())

    def _listeners(self) -> list[GrpcListener]:
        return [listener for listener in (self.grpc, self.guests) if listener is not None]

    def _webs(self) -> list[WebListener]:
        return [web for web in (self.ops, self.admin) if web is not None]

    def reload(self) -> None:
        """Read all files again."""
        self.current.reload()
        for credentials in (self.tls, self._admin_tls):
            if credentials is not None:
                credentials.reload()
        if self._admin is not None:
            self._admin.gatekeeper.reload()

    async def _purge(self) -> None:
        ttl = self.config.limits.connection_ttl

        def work() -> None:
            try:
                gone = purge(self.db, now=self.clock(), connection_ttl=ttl if math.isfinite(ttl) else None)
            except SealpodError as error:
                _logger.warning("what is past its time was not removed: %s", error.one_line())
            else:
                if gone.launches or gone.connections:
                    _logger.info(
                        "removed %d launches and %d connections past their time",
                        gone.launches,
                        gone.connections,
                    )

        while True:
            await asyncio.get_running_loop().run_in_executor(self._checkers, work)
            await asyncio.sleep(PURGE_PERIOD)

    def _follow(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    def _add_gauges(self) -> None:
        gauge, engine = self.metrics.gauge, self.db.engine
        gauge("calls_in_progress", "Calls that are let in now", lambda: float(self._admission.calls))
        gauge(
            "launches_in_progress",
            "Launches between GetBundle and GetSecret, of all replicas",
            database.LaunchCount(engine, self.clock),
        )
        gauge(
            "database_connections_in_use",
            "Connections of the pool that calls hold",
            lambda: database.connections_in_use(engine),
        )
        gauge(
            "database_connections_open",
            "Connections of the pool",
            lambda: database.connections_open(engine),
        )
        webhook = self.webhook
        if webhook is not None:
            gauge(
                "webhook_lost",
                "Decisions that did not get through to the webhook; the database has them",
                lambda: float(webhook.lost),
            )
        for name, credentials in (("grpc", self.tls), ("admin", self._admin_tls)):
            if credentials is not None:
                gauge(
                    f"{name}_certificate_not_after_seconds",
                    f"When the certificate of the {name} listener ends, seconds since the epoch",
                    credentials.not_after,
                )

    def _check_sealer(self) -> None:
        probe = SecretBytes(_SEALER_PROBE)
        sealed = self.db.sealer.seal(probe, context=_SEALER_PROBE)
        self.db.sealer.open(sealed, context=_SEALER_PROBE)

    def stop(self, grace: float) -> None:
        if self._stopped:
            return
        self._stopped = True
        self._loop.run(self._stop(grace))
        self.abandon()
        if self.webhook is not None:
            self.webhook.close()
        self.db.close()

    async def _stop(self, grace: float) -> None:
        self._readiness.draining = True
        for task in self._tasks:
            task.cancel()
        await self._reporter.drain()
        if self.config.drain_delay > 0:
            _logger.info("draining: calls are refused in %g seconds", self.config.drain_delay)
            await asyncio.sleep(self.config.drain_delay)
        await asyncio.gather(*(listener.stop(grace) for listener in self._listeners()))
        for web in self._webs():
            await web.stop()

    def abandon(self) -> None:
        """Without waiting for calls: nothing is listening any more, or never was."""
        self._workers.shutdown(cancel_futures=True)
        self._checkers.shutdown(cancel_futures=True)
        self._loop.close()
