# SPDX-License-Identifier: Apache-2.0
"""What a request of the admin API says: the id in its path, flags in its query, the JSON of its body."""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from starlette.requests import Request

from sealpod import errors
from sealpod.kbs.admin.schema import Schema, check
from sealpod.wire import strictjson

MAX_BODY: Final = 1 << 20
"""Bytes; a policy of ten thousand digests has half of that."""

_CAUSES: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (json.JSONDecodeError, "is not JSON"),
    (UnicodeDecodeError, "is not UTF-8"),
    (UnicodeEncodeError, "has half of a character"),
    (RecursionError, "nests too deeply"),
    (ValueError, "has a member twice, or a number that is none"),
)


async def read_body(request: Request, schema: Schema) -> dict[str, Any]:
    """:raise UsageError: ``admin.body``, ``admin.too-large``."""
    if int(request.headers.get("content-length", "0") or "0") > MAX_BODY:
        raise _too_large()
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MAX_BODY:
            raise _too_large()
    try:
        value = strictjson.parse_object(bytes(data), what="the body", limit=MAX_BODY)
    except errors.DecodeError as error:
        raise errors.UsageError(_in_words(error), code="admin.body") from None
    check(schema, value)
    return value


def read_key(request: Request) -> str:
    """The id in the path. :raise NotFoundError: none. :raise UsageError: ``admin.id``: it is not UTF-8."""
    key: str = request.path_params["id"]
    if not key:
        raise errors.NotFoundError("no such route", code="admin.route", remedy="see /openapi.json")
    try:
        # The server put U+FFFD for what is not UTF-8, so that different ids would have become one.
        unquote_to_bytes(request.scope["raw_path"]).decode()
    except UnicodeDecodeError:
        raise errors.UsageError(
            "the id is not UTF-8", code="admin.id", remedy="percent-encode the bytes of its UTF-8"
        ) from None
    return key


def read_flag(request: Request, name: str) -> bool:
    """A flag in the query. :raise UsageError: ``admin.body``."""
    text = request.query_params.get(name, "false")
    if text not in ("true", "false"):
        raise errors.UsageError(f"{name} is true or false", code="admin.body")
    return text == "true"


def _in_words(error: errors.DecodeError) -> str:
    # The decoder's own text names classes of Python's.
    for kind, words in _CAUSES:
        if isinstance(error.__cause__, kind):
            return f"the body {words}"
    return error.message


def _too_large() -> errors.SealpodError:
    return errors.UsageError(f"the body has more than {MAX_BODY} bytes", code="admin.too-large")
