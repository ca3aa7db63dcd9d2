# SPDX-License-Identifier: Apache-2.0
"""What the admin API answers with: objects, and errors with the status of their family, as JSON."""

from __future__ import annotations

from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route

from sealpod import errors
from sealpod.kbs.server.logs import current_request
from sealpod.kbs.server.ops import NO_STORE

_STATUS: Final[tuple[tuple[type[errors.SealpodError], int], ...]] = (
    (errors.UsageError, 400),
    (errors.DecodeError, 400),
    (errors.RefusedError, 403),
    (errors.AccessError, 403),
    (errors.NotFoundError, 404),
    (errors.ConflictError, 409),
    (errors.VerificationError, 409),
    (errors.UnavailableError, 503),
    (errors.DeadlineError, 504),
)
MAX_SENTENCE: Final = 4096
"""Characters of an error's texts at most; they may quote an id, which has up to 1024."""
_OWN_STATUS: Final = {"admin.unauthorized": 401, "admin.too-large": 413, "admin.method": 405}


def as_json(value: Any) -> Response:
    """An object, which nobody is to keep."""
    return JSONResponse(value, headers=NO_STORE)


def error_response(error: errors.SealpodError) -> Response:
    """An error as JSON, with the status of its family."""
    status = _OWN_STATUS.get(error.code) or next(
        (status for family, status in _STATUS if isinstance(error, family)), 500
    )
    body = {
        "error": {
            "code": error.code,
            "message": error.message[:MAX_SENTENCE],
            "remedy": error.remedy[:MAX_SENTENCE],
            "request": current_request(),
        }
    }
    challenge = {"www-authenticate": "Bearer"} if status == 401 else {}
    return JSONResponse(body, status_code=status, headers={**NO_STORE, **challenge})


async def http_error(request: Request, error: Exception) -> Response:
    """What starlette says itself: no such route, or not this method there."""
    if isinstance(error, HTTPException) and error.status_code == 405:
        refused = error_response(errors.UsageError(f"no {request.method} here", code="admin.method"))
        refused.headers["allow"] = ", ".join(sorted(_methods(request)))
        return refused
    return error_response(
        errors.NotFoundError("no such route", code="admin.route", remedy="see /openapi.json")
    )


def _methods(request: Request) -> set[str]:
    """All that this path takes: each method has a route of its own."""
    routes = [one for one in request.app.routes if isinstance(one, Route)]
    found = [one.methods or set() for one in routes if one.matches(request.scope)[0] is not Match.NONE]
    return set().union(*found)
