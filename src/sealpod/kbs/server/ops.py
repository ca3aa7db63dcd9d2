# SPDX-License-Identifier: Apache-2.0
"""/healthz, /readyz and /metrics, without authentication: they tell nothing about keys or guests.

They may be on a listener of their own, where probes and Prometheus come from, and are on the admin listener
too.
"""

from __future__ import annotations

from typing import Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sealpod.kbs.server.metrics import CONTENT_TYPE, Metrics
from sealpod.kbs.server.readiness import Readiness

NO_STORE: Final = {"cache-control": "no-store"}


def ops_routes(readiness: Readiness, metrics: Metrics) -> list[BaseRoute]:
    """The three, to be put into an application."""

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"alive": True}, headers=NO_STORE)

    async def readyz(_request: Request) -> Response:
        ready, checks = await readiness.look()
        body = {"ready": ready, "checks": dict(checks)}
        return JSONResponse(body, status_code=200 if ready else 503, headers=NO_STORE)

    async def show_metrics(_request: Request) -> Response:
        # Some numbers ask the database.
        text = await run_in_threadpool(metrics.render)
        return Response(text, headers={"content-type": CONTENT_TYPE, **NO_STORE})

    return [
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
        Route("/metrics", show_metrics, methods=["GET"]),
    ]


def ops_app(readiness: Readiness, metrics: Metrics) -> Starlette:
    """The listener of its own."""
    return Starlette(routes=ops_routes(readiness, metrics))
