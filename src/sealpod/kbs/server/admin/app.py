# SPDX-License-Identifier: Apache-2.0
"""The admin API over HTTP: routes, who asks, bodies, errors as JSON, and the audit log.

Every route but the probes and the document needs the gatekeeper's yes. Work is done in threads of the
broker's, since it waits for the database.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from sealpod import errors
from sealpod.kbs.admin.audit import AdminLog
from sealpod.kbs.admin.bodies import SUGGEST_BODY, TEST_BODY
from sealpod.kbs.admin.noun import Noun
from sealpod.kbs.admin.nouns import NOUNS
from sealpod.kbs.admin.schema import Schema
from sealpod.kbs.admin.service import Admin, suggest_policy
from sealpod.kbs.core.audit import Caller
from sealpod.kbs.server.admin import openapi
from sealpod.kbs.server.admin.answers import as_json, error_response, http_error
from sealpod.kbs.server.admin.auth import Gatekeeper
from sealpod.kbs.server.admin.reading import read_body, read_flag, read_key
from sealpod.kbs.server.logs import REQUEST_HEADER, begin_request, current_request
from sealpod.kbs.server.metrics import Metrics
from sealpod.kbs.server.ops import NO_STORE
from sealpod.kbs.server.web import CLIENT_STATE

SCHEMA_VERSION: Final = 1

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")
Handler = Callable[[Request, Caller], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class AdminParts:
    """What is of the admin API alone."""

    gatekeeper: Gatekeeper
    verbs: Admin
    log: AdminLog


@dataclass(frozen=True, slots=True)
class AdminApi:
    """What the routes need."""

    parts: AdminParts
    metrics: Metrics
    workers: Executor

    def app(self, open_routes: list[BaseRoute]) -> Starlette:
        """The application; ``open_routes`` are served without asking who is there."""
        routes: list[BaseRoute] = [*open_routes, Route("/openapi.json", _document, methods=["GET"])]
        for noun in NOUNS:
            routes += self._routes(noun)
        routes += [
            self._route(openapi.TEST, "POST", self._test),
            self._route(openapi.SUGGEST, "POST", self._suggest),
        ]
        handlers: dict[Any, Any] = {HTTPException: http_error}
        return Starlette(routes=routes, exception_handlers=handlers)

    def _routes(self, noun: Noun) -> list[BaseRoute]:
        one = f"{openapi.PREFIX}/{noun.name}/{{id:path}}"
        routes = [
            self._route(f"{openapi.PREFIX}/{noun.name}", "GET", self._lister(noun)),
            self._route(one, "GET", self._shower(noun)),
            self._route(one, "DELETE", self._deleter(noun)),
        ]
        if noun.body is not None:
            routes.append(self._route(one, "PUT", self._setter(noun, noun.body)))
        return routes

    def _route(self, path: str, method: str, handler: Handler) -> BaseRoute:
        async def endpoint(request: Request) -> Response:
            name = begin_request(request.headers.get(REQUEST_HEADER))
            response = await self._answer(handler, request)
            response.headers[REQUEST_HEADER] = name
            self.metrics.admin_request(method, response.status_code)
            return response

        route = Route(path, endpoint, methods=[method])
        if method == "GET":
            route.methods = {"GET"}  # HEAD would reveal what GET is recorded for
        return route

    async def _answer(self, handler: Handler, request: Request) -> Response:
        peer = "" if request.client is None else f"{request.client.host}:{request.client.port}"
        caller = Caller(peer, "", current_request())
        try:
            certificate = getattr(request.state, CLIENT_STATE, "")
            identity = self.parts.gatekeeper.identify(request.headers.get("authorization"), certificate)
            caller = Caller(peer, identity, current_request())
            return await handler(request, caller)
        except errors.SealpodError as error:
            if error.code == "admin.unauthorized":
                _logger.warning("admin API: no valid token from %s", peer)
            return error_response(error)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:  # noqa: BLE001 - a bug of ours must not end the connection unsaid
            # Its text may quote the data it failed on.
            _logger.error("%s %s failed on a %s", request.method, request.url.path, type(error).__name__)
            return error_response(errors.SealpodError("internal error", remedy="see the key broker's log"))

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self.workers, copy_context().run, work)

    def _lister(self, noun: Noun) -> Handler:
        async def handle(_request: Request, _caller: Caller) -> Response:
            found = await self._run(lambda: self.parts.verbs.list(noun.name))
            return as_json({"schemaVersion": SCHEMA_VERSION, noun.key: found})

        return handle

    def _shower(self, noun: Noun) -> Handler:
        async def handle(request: Request, caller: Caller) -> Response:
            key = read_key(request)
            reveal = noun.reveals and read_flag(request, "reveal")

            def work() -> Any:
                return self.parts.verbs.show(noun.name, key, reveal=reveal)

            def recorded() -> Any:
                return self.parts.log.revealing(caller, _label(noun, key), work)

            return as_json(await self._run(recorded if reveal else work))

        return handle

    def _setter(self, noun: Noun, schema: Schema) -> Handler:
        async def handle(request: Request, caller: Caller) -> Response:
            key, body = read_key(request), await read_body(request, schema)

            def work() -> Any:
                with self.parts.log.changing("AdminSet", caller, _label(noun, key)) as within:
                    self.parts.verbs.set(noun.name, key, body, within=within)
                return self.parts.verbs.show(noun.name, key)

            return as_json(await self._run(work))

        return handle

    def _deleter(self, noun: Noun) -> Handler:
        async def handle(request: Request, caller: Caller) -> Response:
            key = read_key(request)

            def work() -> None:
                with self.parts.log.changing("AdminDelete", caller, _label(noun, key)) as within:
                    self.parts.verbs.delete(noun.name, key, within=within)

            await self._run(work)
            return Response(status_code=204, headers=NO_STORE)

        return handle

    async def _test(self, request: Request, _caller: Caller) -> Response:
        body = await read_body(request, TEST_BODY)
        return as_json(await self._run(lambda: self.parts.verbs.test(body)))

    async def _suggest(self, request: Request, _caller: Caller) -> Response:
        body = await read_body(request, SUGGEST_BODY)
        return as_json(await self._run(lambda: suggest_policy(body)))


async def _document(_request: Request) -> Response:
    return as_json(openapi.document())


def _label(noun: Noun, key: str) -> str:
    return f"{noun.noun}:{key}"
